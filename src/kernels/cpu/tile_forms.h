/* The three forms of weights as three functions, and the tile that chooses between them: the end of every vector
 * level's tile file, which includes this behind its own always-inlined tile_form(job, form). A function of its own for
 * each form, because in one body the compiler would have to find registers for three unrolled loops at once. */
static void tile_nibbles(const sqf_tile_job *job)
{
    tile_form(job, SQF_FORM_NIBBLES);
}

static void tile_unsigned(const sqf_tile_job *job)
{
    tile_form(job, SQF_FORM_UNSIGNED);
}

static void tile_bytes(const sqf_tile_job *job)
{
    tile_form(job, SQF_FORM_BYTES);
}

static void tile(const sqf_tile_job *job)
{
    if (job->form == SQF_FORM_NIBBLES) {
        tile_nibbles(job);
    } else if (job->form == SQF_FORM_UNSIGNED) {
        tile_unsigned(job);
    } else {
        tile_bytes(job);
    }
}
