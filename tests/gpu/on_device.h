/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * on_device.h - the tests of tests/kernels/ on a GPU, through the plug-in that workers load.
 *
 * Put before one of their files, as tests/cudaemu/emulated.h is, it opens the plug-in's device in
 * the place of the CPU's.  The tests give memory of the host, so the GPU must be one that reaches
 * it (a recent driver on Linux with heterogeneous memory management, or coherent hardware): where
 * that is not so the program says it and ends with 77.  Every operation is waited for; the demand
 * for equal bits is one from run to run.  DSRUN_TEST_PLUGIN is the plug-in's path.
 */
#ifndef DS_TESTS_GPU_ON_DEVICE_H
#define DS_TESTS_GPU_ON_DEVICE_H

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/op.h"
#include "runtime/plugin.h"

#define DS_TESTS_EMULATED 1 /* the shapes of the emulation */

enum { ON_DEVICE_SKIP = 77, ON_DEVICE_REACHES_HOST = 88 /* of cuda.h's CUdevice_attribute */ };

static struct ds_kernels on_device_kernels;       /* the plug-in's, each waited for */
static const struct ds_kernels *on_device_inside; /* the plug-in's */
static struct ds_backend on_device_backend;       /* the plug-in's, with memory of the host */

#define X(id, fn)                                                                                  \
    static int on_device_##fn(const struct ds_##fn##_args *args, struct ds_stream *stream,         \
                              struct ds_error *err)                                                \
    {                                                                                              \
        int rc = on_device_inside->fn(args, stream, err);                                          \
                                                                                                   \
        return rc != 0 ? rc : ds_stream_finish(stream, err);                                       \
    }
DS_OPS(X)
#undef X

static inline int on_device_alloc(struct ds_device *device, size_t bytes, void **out,
                                  struct ds_error *err)
{
    (void)device;
    *out = calloc(1, bytes);
    return *out != NULL ? 0 : ds_fail(err, ENOMEM, "no memory for %zu bytes", bytes);
}

static inline void on_device_free(struct ds_device *device, void *memory, size_t bytes)
{
    (void)device;
    (void)bytes;
    free(memory);
}

static inline void on_device_skip(const char *why)
{
    fprintf(stderr, "%s\n", why);
    exit(ON_DEVICE_SKIP);
}

static inline void on_device_find(void *library, const char *name, void *function)
{
    void *found = library != NULL ? dlsym(library, name) : NULL;

    if (found == NULL)
        on_device_skip("there is no NVIDIA driver");
    memcpy(function, &found, sizeof(found));
}

/* Asked of the driver: CUDA's runtime is inside the plug-in. */
static inline void on_device_reaches_host(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*init)(unsigned), (*device)(int *, int), (*attribute)(int *, int, int);
    int first = 0, reaches = 0;

    on_device_find(driver, "cuInit", &init);
    on_device_find(driver, "cuDeviceGet", &device);
    on_device_find(driver, "cuDeviceGetAttribute", &attribute);
    if (init(0) != 0 || device(&first, 0) != 0 ||
        attribute(&reaches, ON_DEVICE_REACHES_HOST, first) != 0)
        on_device_skip("the NVIDIA driver does not start");
    if (reaches == 0)
        on_device_skip("this GPU does not reach memory of the host that CUDA did not allocate");
}

static inline void on_device_load(void)
{
    const char *path = getenv("DSRUN_TEST_PLUGIN");
    void *handle, *symbol;
    ds_plugin_entry_fn *entry;
    const struct ds_plugin *plugin;

    on_device_reaches_host();
    handle = dlopen(path != NULL ? path : DS_PLUGIN_FILE, RTLD_NOW | RTLD_LOCAL);
    symbol = handle != NULL ? dlsym(handle, DS_PLUGIN_ENTRY) : NULL;
    memcpy(&entry, &symbol, sizeof(entry));
    plugin = symbol != NULL ? entry() : NULL;
    if (plugin == NULL || plugin->abi != DS_PLUGIN_ABI || plugin->size != sizeof(*plugin)) {
        fprintf(stderr, "the plug-in cannot be loaded: %s\n", handle != NULL ? path : dlerror());
        exit(1);
    }
    on_device_backend = *plugin->device;
    on_device_backend.alloc = on_device_alloc;
    on_device_backend.free = on_device_free;
}

static inline void on_device_close(struct ds_device *device)
{
    (void)device; /* there is one for all tests: loading cuBLASLt takes its time */
}

static inline struct ds_device *on_device_open(void)
{
    const struct ds_device_args args = {.name = "cuda", .threads = 1};
    struct ds_device *device = NULL;
    struct ds_error err = {0};

    on_device_load();
    if (on_device_backend.open(&device, &args, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    on_device_backend.close = on_device_close;
    on_device_inside = device->stream->kernels;
    on_device_kernels = *on_device_inside;
#define X(id, fn)                                                                                  \
    if (on_device_inside->fn != NULL)                                                              \
        on_device_kernels.fn = on_device_##fn;
    DS_OPS(X)
#undef X
    device->stream->kernels = &on_device_kernels;
    device->backend = &on_device_backend;
    return device;
}

static inline struct ds_device *open_cpu(const char *isa, unsigned threads, size_t scratch_bytes)
{
    static struct ds_device *device;

    (void)threads;
    (void)scratch_bytes; /* what the CPU backend needs */
    if (isa != NULL && strcmp(isa, "v4") != 0)
        return NULL; /* one instruction set */
    if (device == NULL)
        device = on_device_open();
    return device;
}

#endif
