/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hf.c - the weights of a Hugging Face folder; the contract is in hf.h and ckpt.h.
 *
 * Names are made those of the model's table first (the prefix "transformer." or "model." is added
 * where a file leaves it out, packed tensors become several), so everything after speaks of one
 * name per tensor.  Files may be
 * symbolic links here: a download cache is made of them.
 */
#include "runtime/ckpt/hf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fsio.h"
#include "base/json_read.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/ckpt/hf_families.h"
#include "runtime/ckpt/hf_packed.h"
#include "runtime/ckpt/manifest.h"
#include "runtime/ckpt/view.h"

struct ds_hf_folder {
    struct ds__hf hf;
};

enum { MAX_SHARDS = 1000 };
enum { ROOM_ELEMS = 256 * 1024 }; /* for rows of which only some columns are wanted */

static int out_of_memory(struct ds_error *err)
{
    return ds_fail(err, ENOMEM, "out of memory");
}

/* --- files ---------------------------------------------------------------------------------- */

static int open_file(struct ds__hf *hf, const char *name, struct ds_error *err)
{
    struct ds__hf_file *file = &hf->file[hf->files];
    char path[DS_MAX_PATH];
    int rc = ds_path_join(path, hf->dir, name, err);

    if (rc < 0)
        return rc;
    file->name = ds_arena_strdup(&hf->arena, name);
    if (file->name == NULL)
        return out_of_memory(err);
    file->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file->fd < 0)
        return ds_fail(err, errno, "cannot open '%s': %s", path, strerror(errno));
    hf->files++;
    return ds_error_context(err, ds_safetensors_read(&file->table, file->fd, err), "file '%s'",
                            path);
}

static bool is_open(const struct ds__hf *hf, const char *name)
{
    for (size_t i = hf->files; i-- > 0;) /* neighbours in the index mostly share a file */
        if (strcmp(hf->file[i].name, name) == 0)
            return true;
    return false;
}

/* Open every file that the index names. */
static int open_shards(struct ds__hf *hf, json_t *map, struct ds_error *err)
{
    for (void *at = json_object_iter(map); at != NULL; at = json_object_iter_next(map, at)) {
        const json_t *value = json_object_iter_value(at);
        const char *name = json_string_value(value);
        int rc;

        if (name == NULL || !ds_plain_file_name(name))
            return ds_fail(err, EBADMSG, "tensor '%.100s' is not mapped to a plain file name",
                           json_object_iter_key(at));
        if (is_open(hf, name))
            continue;
        if (hf->files >= MAX_SHARDS)
            return ds_fail(err, EBADMSG, "more than %d files", MAX_SHARDS);
        if ((rc = open_file(hf, name, err)) < 0)
            return rc;
    }
    return 0;
}

static int open_index(struct ds__hf *hf, const char *path, struct ds_error *err)
{
    json_t *root = NULL, *map;
    int rc = ds_json_load(path, DS_MAX_JSON_BYTES, &root, err);

    if (rc < 0)
        return rc;
    map = json_object_get(root, "weight_map");
    rc = json_is_object(map) ? open_shards(hf, map, err)
                             : ds_fail(err, EBADMSG, "'weight_map' is not an object");
    json_decref(root);
    return ds_error_context(err, rc, "'%s'", path);
}

/* One file, or those of an index. */
static int open_files(struct ds__hf *hf, struct ds_error *err)
{
    char single[DS_MAX_PATH], index[DS_MAX_PATH];
    int rc;

    if ((rc = ds_path_join(single, hf->dir, DS__HF_SINGLE, err)) < 0 ||
        (rc = ds_path_join(index, hf->dir, DS__HF_INDEX, err)) < 0)
        return rc;
    hf->file = ds_arena_alloc(&hf->arena, MAX_SHARDS, sizeof(*hf->file));
    if (hf->file == NULL)
        return out_of_memory(err);
    if (access(single, F_OK) == 0)
        return open_file(hf, DS__HF_SINGLE, err);
    if (access(index, F_OK) == 0)
        return open_index(hf, index, err);
    return ds_fail(err, ENOENT, "'%s' has neither '" DS__HF_SINGLE "' nor '" DS__HF_INDEX "'",
                   hf->dir);
}

/* --- names ---------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/* Tensors that files carry along and a model does not need: masks, frequencies, a tied head. */
static bool is_buffer(const char *name, const struct ds_model_shape *shape)
{
    const struct ds__hf_family *family = ds__hf_family_of(shape->arch);
    const size_t buffers = sizeof(family->buffer) / sizeof(family->buffer[0]);

    if (shape->tie_embeddings && strcmp(name, family->head) == 0)
        return true;
    for (size_t i = 0; i < buffers && family->buffer[i] != NULL; i++)
        if (ends_with(name, family->buffer[i]))
            return true;
    return false;
}

/* The name in the model's table, or NULL when memory runs out. */
static const char *full_name(struct ds__hf *hf, const char *name, enum ds_arch arch)
{
    const struct ds__hf_family *family = ds__hf_family_of(arch);

    if (strncmp(name, family->prefix, strlen(family->prefix)) == 0 ||
        strcmp(name, family->head) == 0)
        return name;
    return ds_arena_printf(&hf->arena, "%s%s", family->prefix, name);
}

static int by_name(const void *a, const void *b)
{
    const struct ds__hf_tensor *x = a, *y = b;

    return strcmp(x->name, y->name);
}

bool ds__hf_one_more(enum ds_arch arch, const char *name)
{
    return ds_arch_traits(arch)->one_more && ends_with(name, "norm.weight");
}

static struct ds__hf_tensor *add(struct ds__hf *hf, const char *name,
                                 const struct ds__hf_file *file, const struct ds_safetensor *at)
{
    struct ds__hf_tensor *tensor = &hf->tensor[hf->tensors++];

    *tensor = (struct ds__hf_tensor){.name = name, .file = file, .at = at};
    memcpy(tensor->shape, at->shape, sizeof(tensor->shape));
    return tensor;
}

/* The parts of a packed tensor, one behind the other by rows, or a head's rows of each by turns. */
static int add_parts(struct ds__hf *hf, const struct ds_model_shape *shape, const char *name,
                     const struct ds__hf_file *file, const struct ds_safetensor *at,
                     struct ds_error *err)
{
    const struct ds__hf_pack *pack = ds__hf_unpacks(shape->arch, name);
    const uint64_t width = ds__hf_part_width(shape, pack);
    uint64_t all[DS_MAX_TENSOR_DIMS] = {0, width}, first = 0;
    char is[DS_SHAPE_TEXT], must[DS_SHAPE_TEXT];

    for (unsigned i = 0; i < pack->parts; i++)
        all[0] += ds__hf_part_rows(shape, pack, i);
    if (at->ndim != pack->ndim || memcmp(at->shape, all, at->ndim * sizeof(all[0])) != 0)
        return ds_fail(err, EINVAL, "file '%s', tensor '%s' has the shape %s, the model's has %s",
                       file->name, at->name, ds_shape_text(at->shape, at->ndim, is),
                       ds_shape_text(all, pack->ndim, must));
    for (unsigned i = 0; i < pack->parts; i++) {
        const char *part = ds__hf_rename(&hf->arena, name, pack->name, pack->part[i].name);
        struct ds__hf_tensor *tensor = add(hf, part, file, at);

        if (part == NULL)
            return out_of_memory(err);
        tensor->first = first;
        tensor->shape[0] = ds__hf_part_rows(shape, pack, i);
        if (pack->by_heads) {
            tensor->run = ds__hf_part_run(shape, pack, i) * width;
            tensor->stride = pack->parts * tensor->run;
        }
        first += ds__hf_part_run(shape, pack, i) * width;
    }
    return 0;
}

static int collect_file(struct ds__hf *hf, const struct ds_model_shape *shape,
                        const struct ds__hf_file *file, struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < file->table.count; i++) {
        const struct ds_safetensor *at = &file->table.tensor[i];
        const char *name;

        if (is_buffer(at->name, shape))
            continue;
        name = full_name(hf, at->name, shape->arch);
        if (name == NULL)
            return out_of_memory(err);
        if (ds__hf_unpacks(shape->arch, name) != NULL)
            rc = add_parts(hf, shape, name, file, at, err);
        else
            add(hf, name, file, at)->one_more = ds__hf_one_more(shape->arch, name);
    }
    return rc;
}

static int collect(struct ds__hf *hf, const struct ds_model_shape *shape, struct ds_error *err)
{
    size_t count = 0;
    int rc = 0;

    for (size_t i = 0; i < hf->files; i++)
        count += hf->file[i].table.count;
    hf->tensor = ds_arena_alloc(&hf->arena, count * DS__HF_PARTS + 1, sizeof(*hf->tensor));
    if (hf->tensor == NULL)
        return out_of_memory(err);
    for (size_t i = 0; rc == 0 && i < hf->files; i++)
        rc = collect_file(hf, shape, &hf->file[i], err);
    if (rc != 0)
        return rc;
    qsort(hf->tensor, hf->tensors, sizeof(*hf->tensor), by_name);
    for (size_t i = 1; i < hf->tensors; i++)
        if (strcmp(hf->tensor[i - 1].name, hf->tensor[i].name) == 0)
            return ds_fail(err, EINVAL, "tensor '%s' stands in '%s' twice", hf->tensor[i].name,
                           hf->dir);
    return 0;
}

static struct ds__hf_tensor *find(const struct ds__hf *hf, const char *name)
{
    const struct ds__hf_tensor key = {.name = name};

    return bsearch(&key, hf->tensor, hf->tensors, sizeof(key), by_name);
}

const struct ds__hf_tensor *ds__hf_find(const struct ds__hf *hf, const char *name)
{
    return find(hf, name);
}

static int check_tensor(const struct ds__hf_tensor *tensor, const struct ds_param *param,
                        struct ds_error *err)
{
    const struct ds_safetensor *at = tensor->at;
    char is[DS_SHAPE_TEXT], must[DS_SHAPE_TEXT];

    if (at->dtype != DS_F32 && at->dtype != DS_BF16 && at->dtype != DS_F16)
        return ds_fail(err, ENOTSUP,
                       "file '%s', tensor '%s' has the type '%s', only F32, BF16 and F16 are read",
                       tensor->file->name, at->name, at->dtype_name);
    if (at->ndim != param->ndim ||
        memcmp(tensor->shape, param->shape, at->ndim * sizeof(at->shape[0])) != 0)
        return ds_fail(err, EINVAL, "file '%s', tensor '%s' has the shape %s, the model's has %s",
                       tensor->file->name, at->name, ds_shape_text(tensor->shape, at->ndim, is),
                       ds_shape_text(param->shape, param->ndim, must));
    return 0;
}

/* Every parameter is there, and nothing but parameters. */
static int check_all(struct ds__hf *hf, const struct ds_model_shape *shape, struct ds_error *err)
{
    size_t count = ds_model_param_count(shape);
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct ds__hf_tensor *tensor;
        struct ds_param param;

        ds_model_param(shape, i, &param);
        tensor = find(hf, param.name);
        if (tensor == NULL)
            return ds_fail(err, EINVAL, "'%s' has no tensor '%s'", hf->dir, param.name);
        tensor->wanted = true;
        rc = check_tensor(tensor, &param, err);
    }
    for (size_t i = 0; rc == 0 && i < hf->tensors; i++)
        if (!hf->tensor[i].wanted)
            rc = ds_fail(err, EINVAL, "file '%s' has a tensor '%s' that the model has not",
                         hf->tensor[i].file->name, hf->tensor[i].at->name);
    return rc;
}

int ds__hf_open(struct ds__hf *hf, const char *dir, const struct ds_model_shape *shape,
                struct ds_error *err)
{
    int rc;

    memset(hf, 0, sizeof(*hf));
    ds_arena_init(&hf->arena);
    hf->dir = dir;
    if ((rc = open_files(hf, err)) < 0 || (rc = collect(hf, shape, err)) < 0 ||
        (rc = check_all(hf, shape, err)) < 0)
        ds__hf_close(hf);
    return rc;
}

void ds__hf_close(struct ds__hf *hf)
{
    for (size_t i = 0; i < hf->files; i++) {
        (void)close(hf->file[i].fd);
        ds_safetensors_release(&hf->file[i].table);
    }
    ds_arena_release(&hf->arena);
    memset(hf, 0, sizeof(*hf));
}

/* --- numbers -------------------------------------------------------------------------------- */

static float f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 0x1fu;
    uint32_t fraction = half & 0x3ffu, word;
    float value;

    if (exponent == 0) { /* zero or subnormal: fraction x 2^-24 */
        value = (float)fraction * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    word = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    memcpy(&value, &word, sizeof(value));
    return value;
}

/* Widen n 16-bit numbers that lie in the upper half of out[n], in place: the i-th is read before
 * anything that covers it is written. */
static void widen(float *out, size_t n, enum ds_dtype dtype)
{
    const char *from = (const char *)out + n * sizeof(uint16_t);

    for (size_t i = 0; i < n; i++) {
        uint16_t bits;

        memcpy(&bits, from + i * sizeof(bits), sizeof(bits));
        out[i] = dtype == DS_BF16 ? ds_bf16_to_f32(bits) : f16_to_f32(bits);
    }
}

/* Index of the first NaN or infinity, or n. */
static size_t first_non_finite(const float *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t word;

        memcpy(&word, &data[i], sizeof(word));
        if ((word & 0x7f800000u) == 0x7f800000u)
            return i;
    }
    return n;
}

/* Where byte `at` of a tensor is in its file. */
static uint64_t place_of(const struct ds__hf_tensor *tensor, uint64_t at)
{
    const size_t size = ds_dtype_bytes((enum ds_dtype)tensor->at->dtype);
    uint64_t element = at / size;

    if (tensor->run > 0)
        element = element / tensor->run * tensor->stride + element % tensor->run;
    return tensor->file->table.data_at + tensor->at->begin + (tensor->first + element) * size +
           at % size;
}

/* Elements of a tensor from `first` on as they lie in its file. */
static int read_elems(const struct ds__hf_tensor *tensor, uint64_t first, size_t count, void *to,
                      struct ds_error *err)
{
    const size_t size = ds_dtype_bytes((enum ds_dtype)tensor->at->dtype);
    int rc = 0;

    for (size_t done = 0, some; rc == 0 && done < count; done += some) {
        const uint64_t element = first + done;
        const uint64_t left = tensor->run > 0 ? tensor->run - element % tensor->run : count;

        some = count - done < left ? count - done : (size_t)left;
        rc = ds_fs_pread_all(tensor->file->fd, (char *)to + done * size, some * size,
                             place_of(tensor, element * size), err);
    }
    return rc;
}

int ds__hf_read(const struct ds__hf *hf, const struct ds__hf_tensor *tensor, uint64_t first,
                uint64_t count, float *out, struct ds_error *err)
{
    const struct ds_safetensor *at = tensor->at;
    size_t size = ds_dtype_bytes((enum ds_dtype)at->dtype), n = (size_t)count, bad;
    int rc = read_elems(tensor, first, n, (char *)out + n * (sizeof(float) - size), err);

    if (rc < 0)
        return ds_error_context(err, rc, "'%s', file '%s', tensor '%s'", hf->dir,
                                tensor->file->name, at->name);
    if (at->dtype != DS_F32)
        widen(out, n, (enum ds_dtype)at->dtype);
    for (size_t i = 0; tensor->one_more && i < n; i++)
        out[i] += 1.0f;
    bad = first_non_finite(out, n);
    if (bad < n)
        return ds_fail(err, EBADMSG, "'%s', file '%s', tensor '%s': element %ju is %s", hf->dir,
                       tensor->file->name, at->name, (uintmax_t)(first + bad),
                       out[bad] != out[bad] ? "not a number" : "infinite");
    return 0;
}

/* Of each tensor so many pieces, from its first bytes to its last; of a small one all. */
enum { DIGEST_PIECES = 32, DIGEST_PIECE = 128, DIGEST_BYTES = DIGEST_PIECES * DIGEST_PIECE };

static int digest_tensor(const struct ds__hf_tensor *tensor, XXH3_state_t *state,
                         struct ds_error *err)
{
    const struct ds_safetensor *at = tensor->at;
    const size_t size = ds_dtype_bytes((enum ds_dtype)at->dtype);
    unsigned char bytes[DIGEST_BYTES];
    uint64_t all = size;
    int rc = 0;

    for (unsigned k = 0; k < at->ndim; k++)
        all *= tensor->shape[k];
    (void)XXH3_64bits_update(state, tensor->name, strlen(tensor->name) + 1);
    (void)XXH3_64bits_update(state, tensor->shape, at->ndim * sizeof(tensor->shape[0]));
    (void)XXH3_64bits_update(state, at->dtype_name, strlen(at->dtype_name) + 1);
    if (all <= DIGEST_BYTES) {
        rc = read_elems(tensor, 0, (size_t)(all / size), bytes, err);
        (void)XXH3_64bits_update(state, bytes, rc == 0 ? (size_t)all : 0);
        return rc;
    }
    for (uint64_t i = 0; rc == 0 && i < DIGEST_PIECES; i++)
        rc = ds_fs_pread_all(
            tensor->file->fd, bytes + i * DIGEST_PIECE, DIGEST_PIECE,
            place_of(tensor,
                     (all - DIGEST_PIECE) / (DIGEST_PIECES - 1) * i +
                         (i + 1 == DIGEST_PIECES ? (all - DIGEST_PIECE) % (DIGEST_PIECES - 1) : 0)),
            err);
    (void)XXH3_64bits_update(state, bytes, rc == 0 ? DIGEST_BYTES : 0);
    return rc;
}

int ds__hf_digest(const struct ds__hf *hf, uint64_t *digest, struct ds_error *err)
{
    XXH3_state_t *state = XXH3_createState();
    int rc = state == NULL ? out_of_memory(err) : 0;

    if (rc < 0)
        return rc;
    (void)XXH3_64bits_reset(state);
    for (size_t i = 0; rc == 0 && i < hf->tensors; i++)
        rc = ds_error_context(err, digest_tensor(&hf->tensor[i], state, err), "'%s'", hf->dir);
    *digest = XXH3_64bits_digest(state);
    (void)XXH3_freeState(state);
    return rc;
}

/* --- into memory ---------------------------------------------------------------------------- */

/* Rows of the file come into the room, the columns of a view from there to their place. */
static int load_view(const struct ds__hf *hf, const struct ds__hf_tensor *tensor,
                     const struct ds_ckpt_view *view, const struct ds_ckpt_tensor *weight,
                     struct ds_error *err)
{
    const struct ds__view_range wanted = {.first = weight->first, .count = weight->count};
    const struct ds_ckpt_view all = {.runs = 0};
    struct ds__view_range span, have;
    struct ds__view_map map;
    float *room = malloc(ROOM_ELEMS * sizeof(*room));
    int rc = room == NULL ? out_of_memory(err) : 0;

    ds__view_map(&map, &all, view, ds__view_columns(tensor->shape, tensor->at->ndim));
    span = ds__view_span(&map, wanted);
    for (have.first = span.first; rc == 0 && span.count > 0; have.first += have.count) {
        have.count = span.count < ROOM_ELEMS ? span.count : ROOM_ELEMS;
        rc = ds__hf_read(hf, tensor, have.first, have.count, room, err);
        if (rc == 0)
            ds__view_scatter(&map, have, room, wanted, weight->data, sizeof(*room));
        span.count -= have.count;
    }
    free(room);
    return rc;
}

static int load_weight(const struct ds__hf *hf, const struct ds_ckpt_tensor *weight,
                       struct ds_error *err)
{
    const struct ds__hf_tensor *tensor = ds__hf_find(hf, weight->name);
    struct ds_ckpt_view view;
    uint64_t elems = 0;
    int rc = ds__view_shorten(&weight->view, weight->shape, weight->ndim, &view, &elems, err);

    if (rc < 0)
        return ds_error_context(err, rc, "tensor '%s'", weight->name);
    if (tensor == NULL || weight->dtype != DS_F32 || weight->ndim != tensor->at->ndim ||
        memcmp(weight->shape, tensor->shape, weight->ndim * sizeof(weight->shape[0])) != 0 ||
        weight->first > elems || weight->count > elems - weight->first)
        return ds_fail(err, EINVAL, "'%s' has no tensor that fits '%s'", hf->dir, weight->name);
    return view.runs == 0 ? ds__hf_read(hf, tensor, weight->first, weight->count, weight->data, err)
                          : load_view(hf, tensor, &view, weight, err);
}

int ds_hf_open(struct ds_hf_folder **out, const char *dir, const struct ds_model_shape *shape,
               struct ds_error *err)
{
    struct ds_hf_folder *folder = calloc(1, sizeof(*folder));
    int rc = folder == NULL ? out_of_memory(err) : ds__hf_open(&folder->hf, dir, shape, err);

    *out = NULL;
    if (rc < 0) {
        free(folder);
        return rc;
    }
    *out = folder;
    return 0;
}

void ds_hf_close(struct ds_hf_folder *folder)
{
    if (folder == NULL)
        return;
    ds__hf_close(&folder->hf);
    free(folder);
}

int ds_hf_read(const struct ds_hf_folder *folder, const struct ds_ckpt_tensor *weights,
               size_t n_weights, struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < n_weights; i++)
        rc = load_weight(&folder->hf, &weights[i], err);
    return rc;
}

int ds_hf_digest(const struct ds_hf_folder *folder, uint64_t *digest, struct ds_error *err)
{
    return ds__hf_digest(&folder->hf, digest, err);
}
