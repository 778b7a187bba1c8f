/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * source.c - the contract is in source.h.
 */
#include "runtime/data/source.h"

#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void ds_source_release(struct ds_source *source)
{
    for (size_t i = 0; i < source->count; i++)
        ds_map_release(&source->file[i].map);
    free(source->file);
    ds_arena_release(&source->arena);
    *source = (struct ds_source){0};
}

/* --- names --------------------------------------------------------------------------------- */

static int add_file(struct ds_source *source, const char *path, struct ds_error *err)
{
    size_t count = source->count;
    struct ds_data_file *file = source->file;

    if (count == DS_MAX_DATA_FILES)
        return ds_fail(err, EINVAL, "there are more than %d files; join some", DS_MAX_DATA_FILES);
    if ((count & (count - 1)) == 0) /* full at every power of two */
        file = realloc(file, (count == 0 ? 1 : 2 * count) * sizeof(*file));
    if (file == NULL)
        return ds_fail(err, ENOMEM, "no memory for a list of %zu files", count);
    source->file = file;
    file[count] =
        (struct ds_data_file){.path = ds_arena_strdup(&source->arena, path), .map = {.fd = -1}};
    if (file[count].path == NULL)
        return ds_fail(err, ENOMEM, "no memory for a list of %zu files", count);
    source->count++;
    return 0;
}

/* A name that exists is that file, whatever is in it; else it is a pattern. */
static int expand(struct ds_source *source, const char *pattern, struct ds_error *err)
{
    struct stat st;
    glob_t found;
    int rc;

    if (stat(pattern, &st) == 0)
        return add_file(source, pattern, err);
    if (errno != ENOENT && errno != ENOTDIR)
        return ds_fail(err, errno, "cannot open '%s': %s", pattern, strerror(errno));
    rc = glob(pattern, GLOB_ERR, NULL, &found); /* sorted */
    if (rc == GLOB_NOMATCH)
        return ds_fail(err, ENOENT, "no file matches '%s'", pattern);
    if (rc != 0)
        return ds_fail(err, rc == GLOB_NOSPACE ? ENOMEM : EIO, "cannot look for '%s'", pattern);
    for (size_t i = 0; rc == 0 && i < found.gl_pathc; i++)
        rc = add_file(source, found.gl_pathv[i], err);
    globfree(&found);
    return rc;
}

/* --- files --------------------------------------------------------------------------------- */

static const char *const format_names[] = {
    [DS_DATA_AUTO] = "auto",
    [DS_DATA_TEXT] = "text",
    [DS_DATA_TOKENS] = "tokens",
    [DS_DATA_SAMPLES] = "samples",
};

/* One source, one format: a mixture is a slip, as of a glob that matched too much. */
static int choose_format(struct ds_source *source, enum ds_data_format format, struct ds_error *err)
{
    const char *first = source->file[0].path;

    source->format = ds_tokens_format(format, first);

    for (size_t i = 1; i < source->count; i++) {
        enum ds_data_format this = ds_tokens_format(format, source->file[i].path);

        if (this != source->format)
            return ds_fail(err, EINVAL,
                           "'%s' is %s and '%s' is %s; one source has one format, name it in "
                           "'data.format'",
                           first, format_names[source->format], source->file[i].path,
                           format_names[this]);
    }
    return 0;
}

static int map_file(struct ds_data_file *file, struct ds_error *err)
{
    struct stat st;
    int rc = ds_fs_map(file->path, &file->map, err);

    if (rc != 0 || file->map.fd < 0)
        return rc;
    if (fstat(file->map.fd, &st) != 0)
        return ds_fail(err, errno, "cannot read '%s': %s", file->path, strerror(errno));
    file->device = st.st_dev;
    file->inode = st.st_ino;
    close(file->map.fd);
    file->map.fd = -1;
    return 0;
}

static int open_file(struct ds_source *source, struct ds_data_file *file,
                     enum ds_data_format format, uint64_t sequence, struct ds_error *err)
{
    int rc = map_file(file, err);

    if (rc != 0)
        return rc;
    rc = ds_tokens_parse(&file->tokens, file->path, format, file->map.data, file->map.len, sequence,
                         err);
    if (rc != 0)
        return ds_error_context(err, rc, "'%s'", file->path);
    file->first_sample = source->samples;
    /* No overflow: mapped files are disjoint parts of one address space. */
    source->samples += file->tokens.samples;
    source->tokens += file->tokens.count;
    source->masked = source->masked || file->tokens.mask_at != 0;
    return 0;
}

int ds_source_list(struct ds_source *source, const struct ds_strings *paths, struct ds_error *err)
{
    int rc = 0;

    *source = (struct ds_source){0};
    ds_arena_init(&source->arena);
    for (size_t i = 0; rc == 0 && i < paths->count; i++)
        rc = expand(source, paths->item[i], err);
    if (rc == 0 && source->count == 0)
        rc = ds_fail(err, EINVAL, "no file is named");
    if (rc != 0)
        ds_source_release(source);
    return rc;
}

int ds_source_open(struct ds_source *source, const struct ds_strings *paths,
                   enum ds_data_format format, uint64_t sequence, struct ds_error *err)
{
    int rc = ds_source_list(source, paths, err);

    if (rc != 0)
        return rc;
    rc = choose_format(source, format, err);
    for (size_t i = 0; rc == 0 && i < source->count; i++)
        rc = open_file(source, &source->file[i], format, sequence, err);
    if (rc == 0 && source->samples == 0)
        rc = ds_fail(
            err, EINVAL, "no file is long enough for one sample: '%s' has %ju ids, %ju are needed",
            source->file[0].path, (uintmax_t)source->file[0].tokens.count, (uintmax_t)sequence + 1);
    if (rc != 0)
        ds_source_release(source);
    return rc;
}

const struct ds_data_file *ds_source_find(const struct ds_source *source, uint64_t sample)
{
    size_t low = 0, high = source->count; /* file[low].first_sample <= sample < file[high]'s */

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (source->file[middle].first_sample <= sample)
            low = middle;
        else
            high = middle;
    }
    return &source->file[low];
}

int ds_source_check(const struct ds_data_file *file, struct ds_error *err)
{
    struct stat st;

    if (stat(file->path, &st) != 0 || st.st_dev != file->device || st.st_ino != file->inode)
        return 0; /* the mapped file has lost its name, and with it whoever could cut it */
    if ((uintmax_t)st.st_size < file->map.len)
        return ds_fail(err, EBADMSG, "'%s' had %zu bytes when it was opened and has %jd now",
                       file->path, file->map.len, (intmax_t)st.st_size);
    return 0;
}
