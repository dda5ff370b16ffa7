/* The list of figures: each picture is written into memory once, for the page and for a file of its own. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../output.h"
#include "chart.h"

/* Names of files: what is not a letter, digit or point becomes a dash. */
static void make_name(figures *list, const char *name, char *out, size_t size)
{
    snprintf(out, size - 4, "%.80s", name);
    for (char *c = out; *c; c++) {
        *c = (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '.' ? *c : '-';
    }
    size_t same = 0;
    for (size_t i = 0; i < list->count; i++) {
        same += strncmp(list->items[i].name, out, strlen(out)) == 0;
    }
    const size_t used = strlen(out);
    if (same > 0) {
        snprintf(out + used, size - used, "-%zu", same + 1);
    }
}

FILE *figure_begin(figures *list, const char *name, size_t grid, int width, int height, const char *description)
{
    static size_t ignored; /* open_memstream wants a place for the length, which the NUL makes needless */
    figure *larger = realloc(list->items, (list->count + 1) * sizeof *larger);
    if (!larger) {
        return NULL;
    }
    list->items = larger;
    figure *f = &larger[list->count];
    *f = (figure){.grid = grid};
    make_name(list, name, f->name, sizeof f->name);
    /* one figure at a time is open, so that the list does not move while it is written */
    FILE *svg = open_memstream(&f->svg, &ignored);
    if (svg) {
        list->count++;
        fprintf(svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"",
                width, height);
        print_escaped(svg, description);
        fprintf(svg, "\"><g class=\"chart\"><rect class=\"paper\" width=\"%d\" height=\"%d\"/>\n", width, height);
    }
    return svg;
}

void figure_end(figures *list, FILE *svg, char *title, char *caption, char *html)
{
    figure *f = &list->items[list->count - 1];
    fprintf(svg, "</g></svg>");
    const bool failed = ferror(svg) != 0;
    if (fclose(svg) != 0 || failed) { /* memory ran out: no picture is better than half of one */
        free(f->svg);
        f->svg = NULL;
    }
    f->title = title;
    f->caption = caption;
    f->list = html;
}

void figures_clear(figures *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].svg);
        free(list->items[i].title);
        free(list->items[i].caption);
        free(list->items[i].list);
    }
    free(list->items);
    *list = (figures){0};
}

/* The style sheet goes into the element, behind its start tag. */
static int write_picture(const figure *f, const char *path)
{
    FILE *file = fopen(path, "w");
    if (!file) {
        return fail_input("%s: cannot create: %s", path, strerror(errno));
    }
    const char *start = strchr(f->svg, '>') + 1;
    fprintf(file, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n%.*s<style>%s</style>%s\n", (int)(start - f->svg),
            f->svg, asset_chart_css, start);
    const bool failed = ferror(file) != 0;
    return fclose(file) != 0 || failed ? fail_input("%s: cannot write", path) : EXIT_DONE;
}

int write_pictures(const figures *list, const char *directory)
{
    int code = EXIT_DONE;
    for (size_t i = 0; i < list->count && code == EXIT_DONE; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s.svg", directory, list->items[i].name);
        code = list->items[i].svg ? write_picture(&list->items[i], path) : fail_input("out of memory");
    }
    return code;
}
