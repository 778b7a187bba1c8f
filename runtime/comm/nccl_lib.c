/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl_lib.c - the contract is in nccl_lib.h.
 */
#include "runtime/comm/nccl_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

static int find(const struct ds__nccl_lib *lib, const char *symbol, void *out, struct ds_error *err)
{
    void *found = dlsym(lib->handle, symbol);

    memcpy(out, &found, sizeof(found)); /* ISO C has no cast from an object to a function */
    if (found != NULL)
        return 0;
    return ds_fail(err, ENOTSUP, "libnccl.so.2 has no '%s', install NCCL 2.19 or later", symbol);
}

int ds__nccl_load(struct ds__nccl_lib *lib, struct ds_error *err)
{
    int rc;

    lib->handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (lib->handle == NULL)
        return ds_fail(
            err, ENOTSUP,
            "several ranks on GPUs need NCCL, and it cannot be loaded: %s: install it, or "
            "name its folder in LD_LIBRARY_PATH",
            dlerror());
    rc = find(lib, "ncclGetErrorString", &lib->error_string, err);
#define X(member, name, args)                                                                      \
    if (rc == 0)                                                                                   \
        rc = find(lib, "nccl" #name, &lib->member, err);
    DS_NCCL_CALLS(X)
#undef X
    if (rc == 0 && (lib->version(&lib->number) != DS_NCCL_OK || lib->number < DS_NCCL_MIN_VERSION))
        rc = ds_fail(err, ENOTSUP, "NCCL is of version %d.%d, install 2.19 or later",
                     lib->number / 10000, lib->number / 100 % 100);
    return rc;
}
