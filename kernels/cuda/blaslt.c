/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * blaslt.c - find cuBLASLt at run time; the contract is in blaslt.h.
 */
#include "kernels/cuda/blaslt.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

/* Newest first: the programming interface used here is the same in all. */
static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

static void *open_library(const char *file)
{
    void *library = NULL;

    if (file != NULL)
        return dlopen(file, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library == NULL && i < sizeof(names) / sizeof(names[0]); i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

/* The address goes through memory: a data pointer is not a function pointer in C. */
static int find(void *library, const char *name, void *function, struct ds_error *err)
{
    void *symbol = dlsym(library, name);

    if (symbol == NULL)
        return ds_fail(err, ENOTSUP, "cuBLASLt lacks '%s': version 12 or newer would do", name);
    memcpy(function, &symbol, sizeof(symbol));
    return 0;
}

int ds__blaslt_load(struct ds_blaslt *blaslt, const char *file, struct ds_error *err)
{
    int rc = 0;

    *blaslt = (struct ds_blaslt){.library = open_library(file)};
    if (blaslt->library == NULL)
        return ds_fail(err, ENOENT, "cuBLASLt could not be loaded: %s", dlerror());
#define X(type, name, args)                                                                        \
    if (rc == 0)                                                                                   \
        rc = find(blaslt->library, "cublasLt" #name, &blaslt->name, err);
    DS_BLASLT_CALLS(X)
#undef X
    if (rc != 0)
        ds__blaslt_unload(blaslt);
    return rc;
}

void ds__blaslt_unload(struct ds_blaslt *blaslt)
{
    if (blaslt->library != NULL)
        (void)dlclose(blaslt->library);
    *blaslt = (struct ds_blaslt){0};
}
