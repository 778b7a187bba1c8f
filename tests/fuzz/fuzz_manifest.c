/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_manifest.c - any bytes under a good seal as the manifest of a checkpoint.
 *
 * Beyond "no crash": a refusal has a reason, the ranges of an accepted one lie in their files and
 * tile their views (those of a part with gaps), the views their tensor, and written again it reads
 * back equal.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "runtime/ckpt/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_view(const struct ds_manifest *m, const struct ds_manifest_view *view,
                       uint64_t size)
{
    uint64_t at = 0;

    for (size_t i = 0; i < view->ranges; i++) {
        const struct ds_manifest_range *range = &view->range[i];
        const struct ds_manifest_file *file = &m->file[range->file];

        assert(range->file < m->files);
        assert(range->offset >= file->header_bytes && range->offset <= file->bytes);
        assert(range->bytes <= file->bytes - range->offset);
        assert(m->part ? range->begin_elem >= at : range->begin_elem == at);
        at = range->begin_elem + range->bytes / size;
        assert(at <= view->elems);
    }
    assert(m->part || at == view->elems);
}

/* How many views of a tensor have a column. */
static unsigned views_of(const struct ds_manifest_tensor *t, uint64_t column)
{
    unsigned views = 0;

    for (size_t i = 0; i < t->views; i++)
        for (unsigned j = 0; j < t->view[i].columns.runs; j++)
            views += column >= t->view[i].columns.run[j].first &&
                     column - t->view[i].columns.run[j].first < t->view[i].columns.run[j].count;
    return views;
}

static void check_tensor(const struct ds_manifest *m, const struct ds_manifest_tensor *t)
{
    uint64_t columns = t->ndim > 0 ? t->shape[t->ndim - 1] : 1, elems = 0;

    assert(t->views > 0);
    for (size_t i = 0; i < t->views; i++) {
        const struct ds_ckpt_view *is = &t->view[i].columns;

        check_view(m, &t->view[i], ds_dtype_bytes(t->dtype));
        elems += t->view[i].elems;
        assert(is->runs > 0 || t->views == 1);
        for (unsigned j = 0; j < is->runs; j++) {
            assert(is->run[j].count > 0 && is->run[j].first + is->run[j].count <= columns);
            assert(views_of(t, is->run[j].first) == 1);
            assert(views_of(t, is->run[j].first + is->run[j].count - 1) == 1);
        }
    }
    assert(m->part ? elems <= t->elems : elems == t->elems);
}

static void check_rewritten(struct ds_manifest *m)
{
    struct ds_manifest again;
    struct ds_error err = {0};
    struct ds_buf text;

    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    assert(ds_manifest_write(m, &text, &err) == 0);
    assert(ds_manifest_parse(&again, text.data, text.len, &err) == 0);
    assert(again.files == m->files && again.tensors == m->tensors);
    assert(again.part == m->part && again.block_bytes == m->block_bytes);
    assert(memcmp(&again.state, &m->state, sizeof(m->state)) == 0);
    for (size_t i = 0; i < m->tensors; i++) {
        assert(again.tensor[i].views == m->tensor[i].views);
        for (size_t j = 0; j < m->tensor[i].views; j++)
            assert(memcmp(&again.tensor[i].view[j].columns, &m->tensor[i].view[j].columns,
                          sizeof(struct ds_ckpt_view)) == 0);
    }
    ds_manifest_release(&again);
    ds_buf_release(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_manifest m;
    struct ds_error err = {0};
    struct ds_buf text;

    ds_buf_init(&text, DS_MAX_JSON_BYTES);
    assert(ds_buf_put(&text, data, size) == 0 && ds_manifest_seal(&text, &err) == 0);
    if (ds_manifest_parse(&m, text.data, text.len, &err) == 0) {
        for (size_t i = 0; i < m.tensors; i++)
            check_tensor(&m, &m.tensor[i]);
        for (size_t i = 0; i < m.files; i++)
            assert(ds_plain_file_name(m.file[i].name));
        check_rewritten(&m);
        ds_manifest_release(&m);
    } else {
        assert(err.text[0] != '\0' && m.tensor == NULL);
    }
    ds_buf_release(&text);
    return 0;
}
