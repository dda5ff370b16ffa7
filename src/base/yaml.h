/* YAML by libyaml's events, one at a time: no aliases, anchors or tags, and every fault named with file and line. */
#ifndef SQF_BASE_YAML_H
#define SQF_BASE_YAML_H

#include <yaml.h>

#include "base/memory.h"

typedef struct sqf_yaml {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; zero before the first */
    const char *name;   /* of the file, for messages */
    const char *place;  /* what ends the message about aliases: "" or " in a task file" */
} sqf_yaml;

/* Begins to read n bytes; both texts and the bytes must outlive the reader. SQF_E_MEMORY; then nothing is to be closed.
 */
sqf_status sqf_yaml_open(sqf_yaml *yaml, const char *bytes, size_t n, const char *name, const char *place,
                         sqf_error *err);
void sqf_yaml_close(sqf_yaml *yaml);

/* The line of the current event, from 1. */
size_t sqf_yaml_line(const sqf_yaml *yaml);

/* Makes the next event the current one. SQF_E_FORMAT: not YAML; an alias, anchor or tag, or a scalar with a NUL byte,
 * which would be cut by what reads it. */
sqf_status sqf_yaml_next(sqf_yaml *yaml, sqf_error *err);

/* The text of the current event, a scalar; until the next one. */
const char *sqf_yaml_text(const sqf_yaml *yaml);
/* A copy of it, for free(). */
sqf_status sqf_yaml_copy(const sqf_yaml *yaml, char **out, sqf_error *err);

#endif
