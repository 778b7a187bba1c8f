/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * dtype.c - the contract is in dtype.h.
 */
#include "kernels/dtype.h"

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
#define X(id, name, bytes) [DS_##id] = {name, bytes},
    DS_DTYPES(X)
#undef X
};

const char *ds_dtype_name(enum ds_dtype dtype)
{
    return (unsigned)dtype < DS_DTYPE_COUNT ? types[dtype].name : "?";
}

size_t ds_dtype_bytes(enum ds_dtype dtype)
{
    return (unsigned)dtype < DS_DTYPE_COUNT ? types[dtype].bytes : 0;
}

int ds_dtype_parse(const char *name)
{
    for (int i = 0; i < DS_DTYPE_COUNT; i++) {
        if (strcmp(name, types[i].name) == 0)
            return i;
    }
    return -1;
}
