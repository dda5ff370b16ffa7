/* Added tokens. */
#include "tokenizer/added.h"

#include "tokenizer/unicode.h"

enum { ROOT = 0, NOTHING = 0 };

/* A node of the trie of reversed texts. */
typedef struct node {
    uint32_t parent, depth;
    uint32_t fail;  /* the longest proper suffix that is a node too */
    uint32_t token; /* the longest token that ends here, its index plus one; NOTHING = none */
    uint8_t byte;   /* the edge from the parent */
} node;

/* Children of the root stand in a table, the others in a hash table: a step costs the same for any number of
 * tokens. */
struct sqf_added_set {
    sqf_added_token *tokens; /* their texts are not valid after the creation, the other members are */
    node *nodes;
    size_t node_count;
    uint32_t *edges; /* nodes by (parent, byte), 0 = free */
    size_t edge_mask;
    uint32_t root[256];
};

static size_t edge_slot(const sqf_added_set *set, uint32_t parent, uint8_t byte)
{
    const uint64_t key = ((uint64_t)parent << 8 | byte) * 0x9e3779b97f4a7c15u;
    size_t slot = (size_t)(key >> 20) & set->edge_mask;
    while (set->edges[slot] != 0 &&
           (set->nodes[set->edges[slot]].parent != parent || set->nodes[set->edges[slot]].byte != byte)) {
        slot = (slot + 1) & set->edge_mask;
    }
    return slot;
}

/* The child by a byte, or ROOT if there is none. */
static uint32_t child_of(const sqf_added_set *set, uint32_t parent, uint8_t byte)
{
    return parent == ROOT ? set->root[byte] : set->edges[edge_slot(set, parent, byte)];
}

static uint32_t step(const sqf_added_set *set, uint32_t state, uint8_t byte)
{
    for (;;) {
        const uint32_t child = child_of(set, state, byte);
        if (child != ROOT || state == ROOT) {
            return child;
        }
        state = set->nodes[state].fail;
    }
}

static sqf_status add_token(sqf_added_set *set, size_t index, sqf_error *err)
{
    const sqf_added_token *token = &set->tokens[index];
    uint32_t state = ROOT;
    for (size_t i = token->size; i > 0; i--) {
        const uint8_t byte = (uint8_t)token->text[i - 1];
        uint32_t child = child_of(set, state, byte);
        if (child == ROOT) {
            child = (uint32_t)set->node_count++;
            set->nodes[child] = (node){.parent = state, .byte = byte, .depth = set->nodes[state].depth + 1};
            if (state == ROOT) {
                set->root[byte] = child;
            } else {
                set->edges[edge_slot(set, state, byte)] = child;
            }
        }
        state = child;
    }
    if (set->nodes[state].token != NOTHING) {
        return sqf_fail(err, SQF_E_FORMAT, "tokenizer.json: added_tokens: \"%.64s\" is there twice", token->text);
    }
    set->nodes[state].token = (uint32_t)index + 1;
    return SQF_OK;
}

/* Failure links, in order of depth (a counting sort). */
static sqf_status link_nodes(sqf_added_set *set, sqf_error *err)
{
    uint32_t *order;
    size_t *starts;
    SQF_TRY(SQF_ALLOC(&order, set->node_count, "added tokens", err));
    const sqf_status status = SQF_ALLOC(&starts, set->node_count + 1, "added tokens", err);
    if (status != SQF_OK) {
        free(order);
        return status;
    }
    for (size_t i = 0; i < set->node_count; i++) {
        starts[set->nodes[i].depth + 1]++;
    }
    for (size_t d = 1; d <= set->node_count; d++) {
        starts[d] += starts[d - 1];
    }
    for (size_t i = 0; i < set->node_count; i++) {
        order[starts[set->nodes[i].depth]++] = (uint32_t)i;
    }
    for (size_t i = 1; i < set->node_count; i++) {
        node *n = &set->nodes[order[i]];
        n->fail = n->parent == ROOT ? ROOT : step(set, set->nodes[n->parent].fail, n->byte);
        n->token = n->token != NOTHING ? n->token : set->nodes[n->fail].token;
    }
    free(order);
    free(starts);
    return SQF_OK;
}

static sqf_status build(sqf_added_set *set, const sqf_added_token *tokens, size_t count, sqf_error *err)
{
    size_t nodes = 1, slots = 16;
    for (size_t i = 0; i < count; i++) {
        nodes += tokens[i].size; /* parts of one file: no overflow */
    }
    if (nodes >= UINT32_MAX) {
        return sqf_fail(err, SQF_E_SUPPORT, "tokenizer.json: added_tokens: %zu bytes of text are too many", nodes);
    }
    while (slots / 2 < nodes) {
        slots *= 2;
    }
    set->edge_mask = slots - 1;
    SQF_TRY(SQF_ALLOC(&set->tokens, count, "added tokens", err));
    SQF_TRY(SQF_ALLOC(&set->nodes, nodes, "added tokens", err));
    SQF_TRY(SQF_ALLOC(&set->edges, slots, "added tokens", err));
    set->node_count = 1;
    for (size_t i = 0; i < count; i++) {
        set->tokens[i] = tokens[i];
        SQF_TRY(add_token(set, i, err));
    }
    return link_nodes(set, err);
}

sqf_status sqf_added_set_create(const sqf_added_token *tokens, size_t count, sqf_added_set **out, sqf_error *err)
{
    *out = NULL;
    sqf_added_set *set;
    SQF_TRY(SQF_ALLOC(&set, 1, "added tokens", err));
    const sqf_status status = build(set, tokens, count, err);
    if (status != SQF_OK) {
        sqf_added_set_destroy(set);
        return status;
    }
    *out = set;
    return SQF_OK;
}

void sqf_added_set_destroy(sqf_added_set *set)
{
    if (set) {
        free(set->tokens);
        free(set->nodes);
        free(set->edges);
        free(set);
    }
}

/* Collects, from the end, the places where a token begins: span.start is the place, span.end the token's index. */
static sqf_status find_begins(const sqf_added_set *set, const char *text, size_t n, sqf_matcher *matcher,
                              sqf_error *err)
{
    uint32_t state = ROOT;
    matcher->count = 0;
    for (size_t i = n; i > 0; i--) {
        state = step(set, state, (uint8_t)text[i - 1]);
        if (set->nodes[state].token != NOTHING) {
            SQF_TRY(sqf_matcher_add(matcher, i - 1, set->nodes[state].token - 1, true, err));
        }
    }
    return SQF_OK;
}

static uint32_t character_before(const char *text, size_t at)
{
    uint32_t c = 0;
    size_t length, start = at - 1;
    while (((uint8_t)text[start] & 0xc0) == 0x80) {
        start--;
    }
    sqf_utf8_next(text + start, at - start, &c, &length);
    return c;
}

static bool is_single_word(const char *text, size_t n, size_t start, size_t end)
{
    uint32_t c = 0;
    size_t length;
    if (start > 0 && sqf_is_word(character_before(text, start))) {
        return false;
    }
    if (end == n) {
        return true;
    }
    sqf_utf8_next(text + end, n - end, &c, &length);
    return !sqf_is_word(c);
}

/* Back over whitespace, not before `limit`. */
static size_t whitespace_before(const char *text, size_t at, size_t limit)
{
    while (at > limit && sqf_is_whitespace(character_before(text, at))) {
        do {
            at--;
        } while (((uint8_t)text[at] & 0xc0) == 0x80);
    }
    return at;
}

/* The state of cutting one piece. */
typedef struct cut {
    const char *text;
    size_t n;
    size_t taken;              /* the end of the last token with the whitespace that it took */
    size_t run_start, run_end; /* the last whitespace seen behind a token: looked at once */
} cut;

static size_t strip_right(cut *c, size_t end)
{
    if (end < c->run_start || end > c->run_end) {
        c->run_start = end;
        c->run_end = sqf_whitespace_end(c->text, c->n, end);
    }
    return c->run_end;
}

static sqf_piece text_piece(const sqf_piece *whole, size_t start, size_t end)
{
    return (sqf_piece){.start = whole->start + start,
                       .end = whole->start + end,
                       .origin = whole->origin > start ? whole->origin - start : 0,
                       .id = SQF_NO_TOKEN};
}

static sqf_status cut_piece(const sqf_added_set *set, const char *text, const sqf_piece *piece, sqf_matcher *matcher,
                            sqf_pieces *out, sqf_error *err)
{
    cut c = {.text = text + piece->start, .n = piece->end - piece->start};
    size_t from = 0;
    SQF_TRY(find_begins(set, c.text, c.n, matcher, err));
    for (size_t i = matcher->count; i > 0; i--) {
        const sqf_added_token *token = &set->tokens[matcher->spans[i - 1].end];
        size_t start = matcher->spans[i - 1].start, end = start + token->size;
        if (start < from) {
            continue;
        }
        from = end; /* matches do not overlap, those that are no single words included */
        if (token->single_word && !is_single_word(c.text, c.n, start, end)) {
            continue;
        }
        if (token->lstrip && start > c.taken) {
            start = whitespace_before(c.text, start, c.taken);
        }
        if (token->rstrip) {
            end = strip_right(&c, end);
        }
        if (c.taken < start) {
            SQF_TRY(sqf_pieces_add(out, text_piece(piece, c.taken, start), err));
        }
        SQF_TRY(sqf_pieces_add(out, (sqf_piece){.start = piece->start, .end = piece->start, .id = token->id}, err));
        c.taken = end;
    }
    return sqf_pieces_add(out, text_piece(piece, c.taken, c.n), err);
}

sqf_status sqf_added_set_split(const sqf_added_set *set, sqf_pieces *pieces, sqf_matcher *matcher, sqf_error *err)
{
    sqf_pieces result = {0};
    sqf_status status = SQF_OK;
    if (!set) {
        return SQF_OK;
    }
    for (size_t i = 0; i < pieces->count && status == SQF_OK; i++) {
        const sqf_piece *piece = &pieces->data[i];
        status = piece->id == SQF_NO_TOKEN ? cut_piece(set, pieces->text.data, piece, matcher, &result, err)
                                           : sqf_pieces_add(&result, *piece, err);
    }
    return sqf_pieces_replace(pieces, &result, status);
}
