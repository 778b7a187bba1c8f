/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * of_run.c - the contract is in of_run.h.
 */
#include "cli/of_run.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "base/yaml.h"

/* The text of a key of two levels, or `otherwise` where there is none. */
static const char *text_of(const struct ds_yaml *root, const char *map, const char *key,
                           const char *otherwise)
{
    const struct ds_yaml *node = ds_yaml_get(root, map);

    if (node != NULL && node->kind == DS_YAML_MAP)
        node = ds_yaml_get(node, key);
    else
        node = NULL;
    return node != NULL && node->kind == DS_YAML_SCALAR && !ds_yaml_is_null(node) ? node->text
                                                                                  : otherwise;
}

/* Does the model come from a folder of Hugging Face's? */
static bool has_base(const struct ds_yaml *root)
{
    const struct ds_yaml *node = ds_yaml_get(root, "model");

    if (node != NULL && node->kind == DS_YAML_MAP)
        node = ds_yaml_get(node, "init");
    if (node != NULL && node->kind == DS_YAML_MAP)
        node = ds_yaml_get(node, "from");
    return node != NULL && node->kind == DS_YAML_SCALAR && !ds_yaml_is_null(node);
}

/* The copy that the run has; where its data was ids, that of the folder that it began with. */
static int find_tokenizer(const struct ds_yaml *root, const char *ckpt, struct ds_of_run *run,
                          struct ds_error *err)
{
    bool ids = strcmp(text_of(root, "data", "tokenizer", "bytes"), "bytes") == 0;
    int rc = ids && !has_base(root)
                 ? 0
                 : ds_path_join(run->tokenizer, ckpt, "../../tokenizer.json", err);

    if (rc == 0 && ids && access(run->tokenizer, F_OK) != 0)
        run->tokenizer[0] = '\0';
    return rc;
}

static int read_record(const char *record, const char *ckpt, struct ds_of_run *run,
                       struct ds_error *err)
{
    struct ds_yaml *root = NULL;
    struct ds_arena arena;
    struct ds_buf text;
    int rc;

    ds_arena_init(&arena);
    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    rc = ds_fs_read(record, DS_MAX_YAML_BYTES, &text, err);
    if (rc == 0)
        rc = ds_yaml_parse(&arena, record, text.data, text.len, &root, err);
    if (rc == 0 && root->kind == DS_YAML_MAP) {
        run->known = true;
        (void)snprintf(run->compute, sizeof(run->compute), "%s",
                       text_of(root, "precision", "compute", "fp32"));
        rc = find_tokenizer(root, ckpt, run, err);
    }
    ds_arena_release(&arena);
    ds_buf_release(&text);
    return rc;
}

int ds_cli_of_run(const char *ckpt, struct ds_of_run *run, struct ds_error *err)
{
    char record[DS_MAX_PATH];
    int rc = ds_path_join(record, ckpt, "../../job.yaml", err);

    *run = (struct ds_of_run){.compute = "fp32"};
    return rc != 0 || access(record, F_OK) != 0 ? rc : read_record(record, ckpt, run, err);
}
