/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * safetensors.c - the contract is in safetensors.h.
 *
 * Sizes are multiplied and added through the checked built-ins before anything is believed.  A
 * tensor of an unknown type is carried along (its size cannot be checked against its shape) and
 * refused by name when somebody asks for it: foreign files hold more than is read here.
 */
#include "runtime/ckpt/safetensors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fsio.h"
#include "base/json.h"
#include "base/json_read.h"

enum { LENGTH_BYTES = 8, ALIGN_BYTES = 8 };

/* Element sizes of the format's types; those of kernels/dtype.h among them. */
/* clang-format off */
static const struct {
    const char *name;
    unsigned bits;
} format_types[] = {
    {"BOOL", 8}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
    {"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16},
    {"I32", 32}, {"U32", 32}, {"F32", 32},
    {"I64", 64}, {"U64", 64}, {"F64", 64}, {"C64", 64},
    {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6},
};
/* clang-format on */

bool ds_shape_elems(const uint64_t *shape, unsigned ndim, uint64_t *elems)
{
    uint64_t product = 1;

    for (unsigned i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(product, shape[i], &product))
            return false;
    *elems = product;
    return true;
}

const char *ds_shape_text(const uint64_t *shape, unsigned ndim, char out[DS_SHAPE_TEXT])
{
    size_t at = 0;

    out[at++] = '[';
    for (unsigned i = 0; i < ndim && i < DS_MAX_TENSOR_DIMS; i++) {
        int len = snprintf(out + at, DS_SHAPE_TEXT - at, "%s%ju", i == 0 ? "" : ", ",
                           (uintmax_t)shape[i]);
        at += len > 0 ? (size_t)len : 0;
    }
    out[at++] = ']';
    out[at] = '\0';
    return out;
}

/* Bits of an element, or 0 for a type that the format does not have. */
static unsigned type_bits(const char *name)
{
    for (size_t i = 0; i < sizeof(format_types) / sizeof(format_types[0]); i++)
        if (strcmp(format_types[i].name, name) == 0)
            return format_types[i].bits;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct ds_safetensor *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static int by_offset(const void *a, const void *b)
{
    const struct ds_safetensor *x = *(const struct ds_safetensor *const *)a;
    const struct ds_safetensor *y = *(const struct ds_safetensor *const *)b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* A JSON integer >= 0; jansson has none above INT64_MAX. */
static bool is_count(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static int read_shape(const json_t *entry, struct ds_safetensor *t, struct ds_error *err)
{
    const json_t *shape = json_object_get(entry, "shape");

    if (!json_is_array(shape))
        return ds_fail(err, EBADMSG, "tensor '%s': 'shape' is not a list", t->name);
    if (json_array_size(shape) > DS_MAX_TENSOR_DIMS)
        return ds_fail(err, EBADMSG, "tensor '%s' has %zu dimensions, at most %d are read", t->name,
                       json_array_size(shape), DS_MAX_TENSOR_DIMS);
    t->ndim = (unsigned)json_array_size(shape);
    for (unsigned i = 0; i < t->ndim; i++)
        if (!is_count(json_array_get(shape, i), &t->shape[i]))
            return ds_fail(err, EBADMSG, "tensor '%s': dimension %u is not a whole number >= 0",
                           t->name, i);
    if (!ds_shape_elems(t->shape, t->ndim, &t->elems))
        return ds_fail(err, EBADMSG, "tensor '%s': its shape holds more than 2^64 elements",
                       t->name);
    return 0;
}

static int read_offsets(const json_t *entry, uint64_t data_bytes, struct ds_safetensor *t,
                        struct ds_error *err)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");

    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !is_count(json_array_get(offsets, 0), &t->begin) ||
        !is_count(json_array_get(offsets, 1), &t->end))
        return ds_fail(err, EBADMSG, "tensor '%s': 'data_offsets' is not a pair of offsets",
                       t->name);
    if (t->begin > t->end || t->end > data_bytes)
        return ds_fail(err, EBADMSG,
                       "tensor '%s': bytes %ju to %ju do not lie in the %ju bytes of data", t->name,
                       (uintmax_t)t->begin, (uintmax_t)t->end, (uintmax_t)data_bytes);
    return 0;
}

/* Does the shape fill the bytes?  Unknown types pass. */
static int check_size(const struct ds_safetensor *t, struct ds_error *err)
{
    uint64_t bits = type_bits(t->dtype_name), bytes = t->end - t->begin;
    char shape[DS_SHAPE_TEXT];

    if (bits == 0)
        return 0;
    if (!__builtin_mul_overflow(bits, t->elems, &bits) && bits % 8 == 0 && bits / 8 == bytes)
        return 0;
    return ds_fail(err, EBADMSG, "tensor '%s': %ju bytes do not hold %s of %s", t->name,
                   (uintmax_t)bytes, t->dtype_name, ds_shape_text(t->shape, t->ndim, shape));
}

static int read_tensor(struct ds_safetensors *st, const char *name, const json_t *entry,
                       struct ds_safetensor *t, struct ds_error *err)
{
    const json_t *dtype = json_object_get(entry, "dtype");
    int rc;

    if (name[0] == '\0' || strlen(name) > DS_MAX_TENSOR_NAME)
        return ds_fail(err, EBADMSG, "tensor name '%.40s' has %zu bytes, 1 to %d are read", name,
                       strlen(name), DS_MAX_TENSOR_NAME);
    t->name = ds_arena_strdup(&st->arena, name);
    if (t->name == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    if (!json_is_object(entry))
        return ds_fail(err, EBADMSG, "tensor '%s' is not described by an object", name);
    if (!json_is_string(dtype) || json_string_length(dtype) > 32)
        return ds_fail(err, EBADMSG, "tensor '%s': 'dtype' is not a type's name", name);
    t->dtype_name = ds_arena_strdup(&st->arena, json_string_value(dtype));
    if (t->dtype_name == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    t->dtype = ds_dtype_parse(t->dtype_name);
    if ((rc = read_shape(entry, t, err)) < 0 ||
        (rc = read_offsets(entry, st->data_bytes, t, err)) < 0)
        return rc;
    return check_size(t, err);
}

static int read_table(struct ds_safetensors *st, json_t *root, struct ds_error *err)
{
    size_t members = json_object_size(root);
    int rc;

    if (members > DS_MAX_TENSORS)
        return ds_fail(err, EBADMSG, "%zu tensors, at most %d are read", members, DS_MAX_TENSORS);
    st->tensor = ds_arena_alloc(&st->arena, members + 1, sizeof(*st->tensor));
    if (st->tensor == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    for (void *at = json_object_iter(root); at != NULL; at = json_object_iter_next(root, at)) {
        const char *name = json_object_iter_key(at);

        if (strcmp(name, "__metadata__") == 0)
            continue;
        rc = read_tensor(st, name, json_object_iter_value(at), &st->tensor[st->count], err);
        if (rc < 0)
            return rc;
        st->count++;
    }
    qsort(st->tensor, st->count, sizeof(*st->tensor), by_name);
    return 0;
}

/* Do the tensors tile the data? */
static int check_tiling(struct ds_safetensors *st, struct ds_error *err)
{
    const struct ds_safetensor **order = ds_arena_alloc(&st->arena, st->count + 1, sizeof(*order));
    uint64_t at = 0;

    if (order == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < st->count; i++)
        order[i] = &st->tensor[i];
    qsort(order, st->count, sizeof(const struct ds_safetensor *), by_offset);
    for (size_t i = 0; i < st->count; i++) {
        if (order[i]->begin != at)
            return ds_fail(err, EBADMSG, "tensor '%s': %s before its first byte, %ju",
                           order[i]->name, order[i]->begin < at ? "overlap" : "hole",
                           (uintmax_t)order[i]->begin);
        at = order[i]->end;
    }
    if (at != st->data_bytes)
        return ds_fail(err, EBADMSG, "the last %ju bytes of the data belong to no tensor",
                       (uintmax_t)(st->data_bytes - at));
    return 0;
}

/* The length in front, checked against the file. */
static int header_length(const void *bytes, size_t len, uint64_t file_len, uint64_t *out,
                         struct ds_error *err)
{
    const unsigned char *raw = bytes;
    uint64_t length = 0;

    if (len < LENGTH_BYTES || file_len < LENGTH_BYTES)
        return ds_fail(err, EBADMSG, "%ju bytes are too short for a safetensors file",
                       (uintmax_t)file_len);
    for (unsigned i = LENGTH_BYTES; i-- > 0;)
        length = length << 8 | raw[i];
    if (length > DS_MAX_JSON_BYTES)
        return ds_fail(err, EBADMSG, "a header of %ju bytes, at most %d are read",
                       (uintmax_t)length, DS_MAX_JSON_BYTES);
    if (length > file_len - LENGTH_BYTES)
        return ds_fail(err, EBADMSG, "a header of %ju bytes in a file of %ju", (uintmax_t)length,
                       (uintmax_t)file_len);
    *out = length;
    return 0;
}

static int parse(struct ds_safetensors *st, const char *bytes, size_t len, uint64_t file_len,
                 struct ds_error *err)
{
    json_t *root;
    uint64_t length = 0;
    int rc = header_length(bytes, len, file_len, &length, err);

    if (rc < 0)
        return rc;
    if (length > len - LENGTH_BYTES)
        return ds_fail(err, EBADMSG, "the header is cut off after %zu bytes", len);
    st->data_at = LENGTH_BYTES + length;
    st->data_bytes = file_len - st->data_at;
    if (length == 0 || bytes[LENGTH_BYTES] != '{')
        return ds_fail(err, EBADMSG, "the header does not start with '{'");
    root = ds_json_parse(bytes + LENGTH_BYTES, length, err);
    if (root == NULL)
        return ds_error_context(err, -EBADMSG, "the header");
    rc = json_is_object(root) ? read_table(st, root, err)
                              : ds_fail(err, EBADMSG, "the header is not an object");
    json_decref(root);
    return rc < 0 ? rc : check_tiling(st, err);
}

int ds_safetensors_parse(struct ds_safetensors *st, const void *bytes, size_t len,
                         uint64_t file_len, struct ds_error *err)
{
    int rc;

    memset(st, 0, sizeof(*st));
    ds_arena_init(&st->arena);
    rc = parse(st, bytes, len, file_len, err);
    if (rc < 0)
        ds_safetensors_release(st);
    return rc;
}

int ds_safetensors_read(struct ds_safetensors *st, int fd, struct ds_error *err)
{
    unsigned char front[LENGTH_BYTES];
    struct stat info;
    uint64_t length, file_len;
    char *bytes;
    int rc;

    memset(st, 0, sizeof(*st));
    if (fstat(fd, &info) < 0)
        return ds_fail(err, errno, "cannot stat: %s", strerror(errno));
    if (!S_ISREG(info.st_mode))
        return ds_fail(err, EINVAL, "not a regular file");
    file_len = (uint64_t)info.st_size;
    if (file_len < LENGTH_BYTES)
        return header_length(front, 0, file_len, &length, err);
    if ((rc = ds_fs_pread_all(fd, front, sizeof(front), 0, err)) < 0 ||
        (rc = header_length(front, sizeof(front), file_len, &length, err)) < 0)
        return rc;
    bytes = malloc(LENGTH_BYTES + length);
    if (bytes == NULL)
        return ds_fail(err, ENOMEM, "out of memory for a header of %ju bytes", (uintmax_t)length);
    rc = ds_fs_pread_all(fd, bytes, LENGTH_BYTES + length, 0, err);
    if (rc == 0)
        rc = ds_safetensors_parse(st, bytes, LENGTH_BYTES + length, file_len, err);
    free(bytes);
    return rc;
}

void ds_safetensors_release(struct ds_safetensors *st)
{
    ds_arena_release(&st->arena);
    memset(st, 0, sizeof(*st));
}

const struct ds_safetensor *ds_safetensors_find(const struct ds_safetensors *st, const char *name)
{
    const struct ds_safetensor key = {.name = name};

    if (st->count == 0)
        return NULL;
    return bsearch(&key, st->tensor, st->count, sizeof(*st->tensor), by_name);
}

int ds_safetensors_get(const struct ds_safetensors *st, const char *name,
                       const struct ds_safetensor **out, struct ds_error *err)
{
    const struct ds_safetensor *t = ds_safetensors_find(st, name);

    if (t == NULL)
        return ds_fail(err, EBADMSG, "has no tensor '%s'", name);
    if (t->dtype < 0)
        return ds_fail(err, ENOTSUP, "tensor '%s' has the type '%s', which is not supported", name,
                       t->dtype_name);
    *out = t;
    return 0;
}

static int by_size_then_name(const void *a, const void *b)
{
    const struct ds_safetensor *x = a, *y = b;
    size_t x_bytes = ds_dtype_bytes((enum ds_dtype)x->dtype);
    size_t y_bytes = ds_dtype_bytes((enum ds_dtype)y->dtype);

    if (x_bytes != y_bytes)
        return x_bytes > y_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Put the tensors in file order and give each its place. */
static int lay_out(struct ds_safetensor *tensors, size_t count, struct ds_error *err)
{
    uint64_t at = 0;

    if (count > 0)
        qsort(tensors, count, sizeof(*tensors), by_name);
    for (size_t i = 1; i < count; i++)
        if (strcmp(tensors[i - 1].name, tensors[i].name) == 0)
            return ds_fail(err, EINVAL, "two tensors are named '%s'", tensors[i].name);
    if (count > 0)
        qsort(tensors, count, sizeof(*tensors), by_size_then_name);
    for (size_t i = 0; i < count; i++) {
        struct ds_safetensor *t = &tensors[i];
        uint64_t bytes = ds_dtype_bytes((enum ds_dtype)t->dtype);

        t->dtype_name = ds_dtype_name((enum ds_dtype)t->dtype);
        t->begin = at;
        if (!ds_shape_elems(t->shape, t->ndim, &t->elems) ||
            __builtin_mul_overflow(bytes, t->elems, &bytes) ||
            __builtin_add_overflow(at, bytes, &at) || at > INT64_MAX)
            return ds_fail(err, EOVERFLOW, "tensor '%s' does not fit in a file", t->name);
        t->end = at;
    }
    return 0;
}

static void write_tensor(struct ds_json *json, const struct ds_safetensor *t)
{
    ds_json_object(json, t->name);
    ds_json_string(json, "dtype", t->dtype_name);
    ds_json_array(json, "shape");
    for (unsigned i = 0; i < t->ndim; i++)
        ds_json_u64(json, NULL, t->shape[i]);
    ds_json_end_array(json);
    ds_json_array(json, "data_offsets");
    ds_json_u64(json, NULL, t->begin);
    ds_json_u64(json, NULL, t->end);
    ds_json_end_array(json);
    ds_json_end_object(json);
}

int ds_safetensors_build(struct ds_safetensor *tensors, size_t count, const char *format,
                         struct ds_buf *out, struct ds_error *err)
{
    const char zeros[LENGTH_BYTES] = {0};
    size_t start = out->len;
    struct ds_json json;
    uint64_t length;
    int rc;

    if ((rc = lay_out(tensors, count, err)) < 0)
        return rc;
    (void)ds_buf_put(out, zeros, sizeof(zeros)); /* the length, known at the end */
    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    if (format != NULL) {
        ds_json_object(&json, "__metadata__");
        ds_json_string(&json, "format", format);
        ds_json_end_object(&json);
    }
    for (size_t i = 0; i < count; i++)
        write_tensor(&json, &tensors[i]);
    ds_json_end_object(&json);
    while ((out->len - start) % ALIGN_BYTES != 0 && !out->failed)
        (void)ds_buf_puts(out, " ");
    if (out->failed)
        return ds_fail(err, ENOBUFS, "a header of %zu tensors is too large", count);
    length = out->len - start - LENGTH_BYTES;
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        out->data[start + i] = (char)(unsigned char)(length >> (8 * i));
    return 0;
}
