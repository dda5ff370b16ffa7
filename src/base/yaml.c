/* Events of a YAML text. */
#include "base/yaml.h"

#include <string.h>

sqf_status sqf_yaml_open(sqf_yaml *yaml, const char *bytes, size_t n, const char *name, const char *place,
                         sqf_error *err)
{
    *yaml = (sqf_yaml){.name = name, .place = place};
    if (!yaml_parser_initialize(&yaml->parser)) {
        return sqf_fail(err, SQF_E_MEMORY, "%s: out of memory", name);
    }
    yaml_parser_set_input_string(&yaml->parser, (const unsigned char *)bytes, n);
    return SQF_OK;
}

void sqf_yaml_close(sqf_yaml *yaml)
{
    yaml_event_delete(&yaml->event);
    yaml_parser_delete(&yaml->parser);
}

size_t sqf_yaml_line(const sqf_yaml *yaml)
{
    return yaml->event.start_mark.line + 1;
}

static bool is_plain(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return !event->data.scalar.anchor && !event->data.scalar.tag &&
               strlen((const char *)event->data.scalar.value) == event->data.scalar.length;
    case YAML_SEQUENCE_START_EVENT: return !event->data.sequence_start.anchor && !event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT: return !event->data.mapping_start.anchor && !event->data.mapping_start.tag;
    default: return event->type != YAML_ALIAS_EVENT;
    }
}

sqf_status sqf_yaml_next(sqf_yaml *yaml, sqf_error *err)
{
    const yaml_parser_t *parser = &yaml->parser;
    yaml_event_delete(&yaml->event);
    if (!yaml_parser_parse(&yaml->parser, &yaml->event)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: line %zu: not YAML: %s", yaml->name, parser->problem_mark.line + 1,
                        parser->problem ? parser->problem : "out of memory");
    }
    if (!is_plain(&yaml->event)) {
        return sqf_fail(err, SQF_E_FORMAT, "%s: line %zu: aliases, anchors, tags and NUL bytes are not read%s",
                        yaml->name, sqf_yaml_line(yaml), yaml->place);
    }
    return SQF_OK;
}

const char *sqf_yaml_text(const sqf_yaml *yaml)
{
    return (const char *)yaml->event.data.scalar.value;
}

sqf_status sqf_yaml_copy(const sqf_yaml *yaml, char **out, sqf_error *err)
{
    return sqf_copy_text(out, sqf_yaml_text(yaml), yaml->event.data.scalar.length, err);
}
