/* Outputs that appear whole or not at all: written under a temporary name beside the target and renamed at the end.
 * "Beside" matters: only within one file system is a rename atomic and free of copying.
 *
 * A target that exists is replaced in two renames (target to aside, temporary to target), because rename cannot
 * replace a directory that is not empty. A crash between the two leaves both versions complete, one of them under
 * another name. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* An output between begin and commit or abort. */
struct sqf_output {
    char *target, *temporary;
    bool directory, force;
};

/* Removes a file or a tree below directory descriptor `at`; links are removed, not followed. */
static void remove_tree(int at, const char *name)
{
    if (unlinkat(at, name, 0) == 0 || (errno != EISDIR && errno != EPERM)) {
        return;
    }
    const int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (directory) {
        for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
                remove_tree(fd, entry->d_name);
            }
        }
        closedir(directory);
    }
    unlinkat(at, name, AT_REMOVEDIR);
}

/* Frees the memory alone; files are the business of commit and abort. */
static void output_free(sqf_output *output)
{
    free(output->target);
    free(output->temporary);
    free(output);
}

/* Creates the temporary directory or an empty file; output->temporary comes in as the template and goes out as the
 * name. */
static sqf_status make_temporary(sqf_output *output, sqf_error *err)
{
    char *made = NULL;
    int fd = -1;
    if (output->directory) {
        made = mkdtemp(output->temporary);
    } else {
        fd = mkostemp(output->temporary, O_CLOEXEC);
    }
    if (!made && fd < 0) {
        const int number = errno;
        return sqf_fail(err, SQF_E_IO, "%s: cannot create the output: %s", output->target, strerror(number));
    }
    /* mkdtemp and mkostemp make things private to the user; an output gets the usual permissions. The umask can only
     * be read by setting it: a file that another thread creates in between is as open as it asks to be. */
    const mode_t mask = umask(0);
    umask(mask);
    const mode_t mode = (output->directory ? 0777 : 0666) & ~mask;
    if (fd >= 0) {
        fchmod(fd, mode);
        close(fd);
    } else {
        chmod(made, mode);
    }
    return SQF_OK;
}

/* Without slashes at the end: "out/" must give out.part-XXXXXX beside out, not in it. */
static sqf_status trimmed_copy(char **out, const char *path, sqf_error *err)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    if (length == 0) {
        return sqf_fail(err, SQF_E_ARG, "the output's path is empty");
    }
    return sqf_copy_text(out, path, length, err);
}

sqf_status sqf_output_begin(const char *path, bool directory, bool force, sqf_output **out, sqf_error *err)
{
    *out = NULL;
    sqf_output *output;
    SQF_TRY(SQF_ALLOC(&output, 1, "output", err));
    output->directory = directory;
    output->force = force;
    sqf_status status = trimmed_copy(&output->target, path, err);
    /* Asked now, so that an hour of work is not lost to an answer that was known before it; and again in move_aside. */
    if (status == SQF_OK && !force && sqf_path_exists(output->target)) {
        status = sqf_fail(err, SQF_E_EXISTS, "%s: exists already; --force replaces it", output->target);
    }
    if (status == SQF_OK) {
        status = sqf_format_text(&output->temporary, err, "%s.part-XXXXXX", output->target);
    }
    if (status == SQF_OK) {
        status = make_temporary(output, err);
    }
    if (status != SQF_OK) {
        output_free(output);
        return status;
    }
    *out = output;
    return SQF_OK;
}

const char *sqf_output_path(const sqf_output *output)
{
    return output->temporary;
}

/* Moves what stands at the target out of the way; *aside stays NULL if nothing does. */
static sqf_status move_aside(const sqf_output *output, char **aside, sqf_error *err)
{
    *aside = NULL;
    if (!sqf_path_exists(output->target)) {
        return SQF_OK;
    }
    if (!output->force) {
        return sqf_fail(err, SQF_E_EXISTS, "%s: exists already; --force replaces it", output->target);
    }
    char *name;
    /* The six characters of mkdtemp make this name as unused as the temporary one. */
    SQF_TRY(sqf_format_text(&name, err, "%s.replaced-by-%s", output->target, strrchr(output->temporary, '-') + 1));
    if (rename(output->target, name) != 0) {
        const int number = errno;
        free(name);
        return sqf_fail(err, SQF_E_IO, "%s: cannot replace: %s", output->target, strerror(number));
    }
    *aside = name;
    return SQF_OK;
}

sqf_status sqf_output_commit(sqf_output *output, sqf_error *err)
{
    char *aside;
    sqf_status status = move_aside(output, &aside, err);
    if (status == SQF_OK && rename(output->temporary, output->target) != 0) {
        const int number = errno;
        status = sqf_fail(err, SQF_E_IO, "%s: cannot put the output in place: %s", output->target, strerror(number));
        if (aside) {
            rename(aside, output->target);
        }
    } else if (status == SQF_OK && aside) {
        remove_tree(AT_FDCWD, aside);
    }
    free(aside);
    if (status != SQF_OK) {
        remove_tree(AT_FDCWD, output->temporary);
    }
    output_free(output);
    return status;
}

void sqf_output_abort(sqf_output *output)
{
    if (!output) {
        return;
    }
    remove_tree(AT_FDCWD, output->temporary);
    output_free(output);
}
