/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * kept.c - the contract is in kept.h.
 */
#include "runtime/data/kept.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fsio.h"
#include "runtime/data/source.h"

enum { BLOCK_BYTES = 1 << 20 };

/* Changes when the ids of the same text would. */
static const char kind[] = "dsrun ids 1";

struct hasher {
    XXH3_state_t *state;
    char *block;
};

static int add_bytes(struct hasher *h, int fd, const char *path, struct ds_error *err)
{
    uint64_t all = 0;
    ssize_t n;

    while ((n = read(fd, h->block, BLOCK_BYTES)) > 0) {
        (void)XXH3_128bits_update(h->state, h->block, (size_t)n);
        all += (uint64_t)n;
    }
    if (n < 0)
        return ds_fail(err, errno == EINTR ? ECANCELED : errno, "cannot read '%s': %s", path,
                       strerror(errno));
    (void)XXH3_128bits_update(h->state, &all, sizeof(all)); /* where one file ends */
    return 0;
}

static int add_file(struct hasher *h, const char *path, struct ds_error *err)
{
    const char *dot = strrchr(path, '.');
    bool lines = dot != NULL && strcmp(dot, ".jsonl") == 0;
    struct stat st;
    int rc, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = ds_fail(err, EINVAL, "'%s' is not a regular file", path);
    else
        rc = add_bytes(h, fd, path, err);
    (void)XXH3_128bits_update(h->state, &lines, sizeof(lines));
    (void)close(fd);
    return rc;
}

static int hash_all(const struct ds_kept_args *args, const struct ds_source *source,
                    XXH128_hash_t *hash, struct ds_error *err)
{
    struct hasher h = {.state = XXH3_createState(), .block = malloc(BLOCK_BYTES)};
    int rc;

    if (h.state == NULL || h.block == NULL || XXH3_128bits_reset(h.state) != XXH_OK) {
        rc = ds_fail(err, ENOMEM, "no memory to compare text");
    } else {
        (void)XXH3_128bits_update(h.state, kind, sizeof(kind));
        rc = add_file(&h, args->tokenizer, err);
        for (size_t i = 0; rc == 0 && i < source->count; i++)
            rc = add_file(&h, source->file[i].path, err);
        *hash = XXH3_128bits_digest(h.state);
    }
    (void)XXH3_freeState(h.state);
    free(h.block);
    return rc;
}

/* --- making ---------------------------------------------------------------------------------- */

static int tokenize(const struct ds_kept_args *args, const struct ds_source *source,
                    const struct ds_tokenizer *tokenizer, const char *path,
                    struct ds_corpus_count *count, struct ds_error *err)
{
    const char **names = calloc(source->count, sizeof(*names));
    const struct ds_corpus_args corpus = {.tokenizer = tokenizer,
                                          .path = names,
                                          .paths = source->count,
                                          .key = "text",
                                          .separator = ds_tokenizer_separator(tokenizer),
                                          .threads = args->threads,
                                          .go_on = args->go_on,
                                          .user = args->user};
    struct ds_token_writer writer = {.fd = -1};
    int rc;

    if (names == NULL)
        return ds_fail(err, ENOMEM, "no memory for a list of %zu files", source->count);
    for (size_t i = 0; i < source->count; i++)
        names[i] = source->file[i].path;
    rc = ds_token_writer_open(&writer, path, ds_tokenizer_size(tokenizer), true, err);
    if (rc == 0)
        rc = ds_corpus_tokenize(&corpus, &writer, count, err);
    if (rc == 0)
        rc = ds_token_writer_commit(&writer, err);
    ds_token_writer_abort(&writer);
    free(names);
    return rc;
}

static int make(const struct ds_kept_args *args, const struct ds_source *source, const char *path,
                struct ds_corpus_count *count, struct ds_error *err)
{
    struct ds_tokenizer *tokenizer = NULL;
    int rc = ds_tokenizer_load(&tokenizer, args->tokenizer, err);

    if (rc == 0 && ds_tokenizer_size(tokenizer) > args->vocab)
        rc = ds_fail(err, EINVAL,
                     "tokenizer '%s' has %u ids, and 'model.vocab' is %" PRIu64
                     "; it must be at least that",
                     args->tokenizer, ds_tokenizer_size(tokenizer), args->vocab);
    else if (rc == 0 && ds_tokenizer_separator(tokenizer) == DS_NO_TOKEN)
        rc = ds_fail(err, EINVAL,
                     "tokenizer '%s' has no token that is known to end a document; name it with "
                     "'dsrun data tokenize --eot'",
                     args->tokenizer);
    if (rc == 0)
        rc = ds_fs_mkdirs(args->folder, err);
    if (rc == 0)
        rc = tokenize(args, source, tokenizer, path, count, err);
    ds_tokenizer_free(tokenizer);
    return rc;
}

int ds_kept_ids(const struct ds_kept_args *args, char *path, bool *made,
                struct ds_corpus_count *count, struct ds_error *err)
{
    struct ds_source source;
    XXH128_hash_t hash = {0};
    char name[128];
    int rc = ds_source_list(&source, args->paths, err);

    *made = false;
    if (rc != 0)
        return rc;
    rc = hash_all(args, &source, &hash, err);
    (void)snprintf(name, sizeof(name), "%.64s-%016" PRIx64 "%016" PRIx64 ".bin", args->name,
                   (uint64_t)hash.high64, (uint64_t)hash.low64);
    if (rc == 0)
        rc = ds_path_join(path, args->folder, name, err);
    if (rc == 0 && access(path, F_OK) != 0 && args->look) {
        rc = ds_fail(err, ENOENT, "its ids have not been made yet: '%s' does not exist", path);
    } else if (rc == 0 && access(path, F_OK) != 0) {
        rc = make(args, &source, path, count, err);
        *made = rc == 0;
    }
    ds_source_release(&source);
    return rc;
}
