/* The definitions that come with the library, each a task file. Prompts are those of lm-eval's tasks of the same name;
 * members are those of the files that llm-foundry keeps (query, choices, gold; context, continuation;
 * context_options), of HellaSwag and of GSM8K. */
#include <ctype.h>
#include <string.h>

#include "tasks/definition.h"

/* A question that the file writes out, and the answers. */
#define QUESTION_ANSWER(name)                                                                                          \
    "name: " name "\n"                                                                                                 \
    "kind: choice\n"                                                                                                   \
    "context: \"{query|strip}\\nAnswer:\"\n"                                                                           \
    "choices: choices\n"                                                                                               \
    "gold: gold\n"

/* The choices continue the sentence. */
#define SENTENCE(name)                                                                                                 \
    "name: " name "\n"                                                                                                 \
    "kind: choice\n"                                                                                                   \
    "context: \"{query}\"\n"                                                                                           \
    "choices: choices\n"                                                                                               \
    "gold: gold\n"

static const sqf_task_builtin builtins[] = {
    {"arc-challenge", "ARC, the hard part: questions of school science", QUESTION_ANSWER("arc-challenge")},
    {"arc-easy", "ARC, the easy part", QUESTION_ANSWER("arc-easy")},
    {"boolq", "BoolQ: a passage, a question, yes or no", QUESTION_ANSWER("boolq")},
    {"continuation-mcq", "which of four pieces of prose continues a paragraph",
     "name: continuation-mcq\n"
     "kind: choice\n"
     "context: \"{ctx}\"\n"
     "choices: endings\n"
     "gold: label\n"},
    {"copa", "COPA: cause or consequence of a sentence", SENTENCE("copa")},
    {"gsm8k", "GSM8K: arithmetic in words, answered by generated text",
     "name: gsm8k\n"
     "kind: generate\n"
     "context: \"Question: {question}\\nAnswer:\"\n"
     "answer: \"{answer}\"\n"
     "few_shot: 5\n"
     "stop: [\"Question:\", \"</s>\", \"<|im_end|>\"]\n"
     "strict: '(?<=#### )-?[0-9.,]+'\n"
     "flexible: '-?[$0-9.,]{2,}|-?[0-9]+'\n"
     "max_new_tokens: 256\n"},
    {"hellaswag", "HellaSwag: which ending continues a description",
     "name: hellaswag\n"
     "kind: choice\n"
     "context: \"{activity_label}: {ctx_a} {ctx_b|capitalize}\"\n"
     "choices: endings\n"
     "gold: label\n"
     "clean: hellaswag\n"},
    {"lambada", "LAMBADA: the last word of a passage",
     "name: lambada\n"
     "kind: cloze\n"
     "context: \"{context}\"\n"
     "continuation: \"{continuation}\"\n"},
    {"openbookqa", "OpenBookQA: elementary science", SENTENCE("openbookqa")},
    {"piqa", "PIQA: physical common sense", QUESTION_ANSWER("piqa")},
    {"winogrande", "WinoGrande: which of two names fits, by partial evaluation",
     "name: winogrande\n"
     "kind: partial\n"
     "contexts: context_options\n"
     "continuation: \"{continuation}\"\n"
     "gold: gold\n"},
};

const sqf_task_builtin *sqf_task_builtins(size_t *count)
{
    *count = sizeof builtins / sizeof *builtins;
    return builtins;
}

static int fold(char c)
{
    return c == '_' ? '-' : tolower((unsigned char)c);
}

/* "gsm8k-200" and "GSM8K_test" begin with gsm8k; "gsm8kx" is something else. */
static bool begins_with(const char *name, const char *builtin)
{
    size_t i = 0;
    while (builtin[i] && fold(name[i]) == builtin[i]) {
        i++;
    }
    return builtin[i] == '\0' && (name[i] == '\0' || fold(name[i]) == '-' || name[i] == '.');
}

const sqf_task_builtin *sqf_builtin_find(const char *name)
{
    const sqf_task_builtin *best = NULL;
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++) {
        if (begins_with(name, builtins[i].name) && (!best || strlen(builtins[i].name) > strlen(best->name))) {
            best = &builtins[i];
        }
    }
    return best;
}

const char *sqf_task_kind_name(sqf_task_kind kind)
{
    static const char *const names[] = {"choice", "partial", "cloze", "generate"};
    return (size_t)kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

const char *sqf_task_metric_name(sqf_task_metric metric)
{
    static const char *const names[SQF_METRIC_COUNT] = {"acc", "acc_norm", "acc_bytes", "acc_flexible", "perplexity"};
    return (size_t)metric < SQF_METRIC_COUNT ? names[metric] : "unknown";
}
