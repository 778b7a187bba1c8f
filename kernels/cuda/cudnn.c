/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cudnn.c - find cuDNN at run time; the contract is in cudnn.h.
 */
#include "kernels/cuda/cudnn.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* The address goes through memory: a data pointer is not a function pointer in C. */
static int find(void *library, const char *name, void *function, struct ds_error *err)
{
    void *symbol = dlsym(library, name);

    if (symbol == NULL)
        return ds_fail(err, ENOTSUP, "it lacks '%s'", name);
    memcpy(function, &symbol, sizeof(symbol));
    return 0;
}

/* Is it this library that is not there?  Else what it needs may not be, or it is none. */
static bool is_absent(const char *file, const char *why)
{
    size_t length = strlen(file);

    return strncmp(why, file, length) == 0 && strstr(why + length, "cannot open") != NULL;
}

int ds__cudnn_load(struct ds_cudnn *cudnn, const char *file, struct ds_error *err)
{
    const char *name = file != NULL ? file : "libcudnn.so.9", *why;
    int rc = 0;

    *cudnn = (struct ds_cudnn){0};
    cudnn->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (cudnn->library == NULL) {
        why = dlerror();
        return ds_fail(err, is_absent(name, why) ? ENOENT : ENOTSUP, "%s", why);
    }
#define X(type, name, args)                                                                        \
    if (rc == 0)                                                                                   \
        rc = find(cudnn->library, "cudnn" #name, &cudnn->name, err);
    DS_CUDNN_CALLS(X)
#undef X
    if (rc != 0)
        ds__cudnn_unload(cudnn);
    return rc;
}

void ds__cudnn_unload(struct ds_cudnn *cudnn)
{
    if (cudnn->library != NULL)
        (void)dlclose(cudnn->library);
    *cudnn = (struct ds_cudnn){0};
}
