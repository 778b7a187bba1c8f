/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * on_device.h - the tests of tests/kernels/ on a GPU, through the plug-in that workers load.
 *
 * Put before one of their files, as tests/cudaemu/emulated.h is, it opens the plug-in's device in
 * the place of the CPU's.  The tests give memory of the host: what malloc() hands out, and the
 * stack that the tests run on, lie in one heap that is made known to the driver (page-locked and
 * mapped, unless kernels reach all memory of the host), so that kernels reach it on every machine,
 * at the speed of its bus.  A pointer to anything else is refused before the kernel sees it.  Where the driver does not do that the
 * program says it and ends with 77.  Every operation is waited for; the demand for equal bits is one
 * from run to run.  DSRUN_TEST_PLUGIN is the plug-in's path.
 */
#ifndef DS_TESTS_GPU_ON_DEVICE_H
#define DS_TESTS_GPU_ON_DEVICE_H

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/op.h"
#include "runtime/plugin.h"

#define DS_TESTS_EMULATED 1 /* the shapes of the emulation */

enum {
    ON_DEVICE_SKIP = 77,
    ON_DEVICE_ANY_MEMORY = 88, /* of cuda.h's CUdevice_attribute: pageable memory, too */
    ON_DEVICE_SAME_POINTER = 91,
    ON_DEVICE_MAPPED = 3,       /* of CU_MEMHOSTREGISTER_*: for all contexts, in the device's map */
    ON_DEVICE_HEAP = 1 << 30,   /* of the tests; libraries have their blocks in it, too, */
    ON_DEVICE_APART = 32 << 20, /* but for those that are larger than this */
    ON_DEVICE_STACK = 8 << 20,
};

static struct { /* what kernels may reach */
    uintptr_t begin, end;
} on_device_heap;

static struct ds_kernels on_device_kernels;       /* the plug-in's, each waited for */
static const struct ds_kernels *on_device_inside; /* the plug-in's */
static struct ds_backend on_device_backend;       /* the plug-in's, with memory of the host */

/* Everything in the program's own image, and all stacks but the tests', is out of reach: no number
 * that an operation is given looks like an address of those. */
static inline int on_device_check(const void *args, size_t bytes, const char *name,
                                  struct ds_error *err)
{
    extern char __executable_start[], _end[];
    const char *at = args;

    for (size_t i = 0; i + sizeof(uintptr_t) <= bytes; i += sizeof(uintptr_t)) {
        uintptr_t word;

        memcpy(&word, at + i, sizeof(word));
        if ((word >= (uintptr_t)__executable_start && word < (uintptr_t)_end) ||
            (word >= on_device_heap.end && word >> 40 != 0 && word >> 47 == 0))
            return ds_fail(err, EFAULT,
                           "%s: byte %zu of its arguments points to 0x%" PRIxPTR
                           ", which is not of the heap",
                           name, i, word);
    }
    return 0;
}

#define X(id, fn)                                                                                  \
    static int on_device_##fn(const struct ds_##fn##_args *args, struct ds_stream *stream,         \
                              struct ds_error *err)                                                \
    {                                                                                              \
        int rc = on_device_check(args, sizeof(*args), #fn, err);                                   \
                                                                                                   \
        if (rc == 0)                                                                               \
            rc = on_device_inside->fn(args, stream, err);                                          \
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

/* Where the C library's heap lies. */
static inline void on_device_find_heap(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];

    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL)
        if (strstr(line, "[heap]") != NULL &&
            sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &on_device_heap.begin, &on_device_heap.end) == 2)
            break;
    if (maps != NULL)
        (void)fclose(maps);
}

/* The heap in one piece that neither grows nor shrinks.  cuBLASLt and the driver keep what they load
 * of the kernels of a product in it: half a GiB was not enough for a few hundred shapes. */
static inline int on_device_make_heap(void)
{
    char *volatile most; /* or the compiler leaves the whole call out */

    if (mallopt(M_MMAP_MAX, 0) != 1 || mallopt(M_ARENA_MAX, 1) != 1 ||
        mallopt(M_TRIM_THRESHOLD, -1) != 1)
        return -1;
    most = malloc(ON_DEVICE_HEAP);
    free(most);
    on_device_find_heap();
    if (on_device_heap.end - on_device_heap.begin < ON_DEVICE_HEAP)
        return -1;
    return mallopt(M_MMAP_MAX, INT_MAX) == 1 && mallopt(M_MMAP_THRESHOLD, ON_DEVICE_APART) == 1
               ? 0
               : -1;
}

/* By the driver, in the context of the device that is open: CUDA's runtime is inside the plug-in. */
static inline void on_device_share_heap(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*attribute)(int *, int, int), (*add)(void *, size_t, unsigned);
    int same = 0, any = 0, rc;

    on_device_find(driver, "cuDeviceGetAttribute", &attribute);
    on_device_find(driver, "cuMemHostRegister_v2", &add);
    if (attribute(&same, ON_DEVICE_SAME_POINTER, 0) != 0 || same == 0)
        on_device_skip("this GPU has addresses of its own for memory of the host");
    rc = add((void *)on_device_heap.begin, on_device_heap.end - on_device_heap.begin,
             ON_DEVICE_MAPPED);
    if (rc != 0 && attribute(&any, ON_DEVICE_ANY_MEMORY, 0) == 0 && any != 0)
        return; /* kernels reach it without */
    if (rc != 0) {
        fprintf(stderr, "the driver does not map the heap: CUDA driver error %d\n", rc);
        exit(ON_DEVICE_SKIP);
    }
}

static inline void on_device_load(void)
{
    const char *path = getenv("DSRUN_TEST_PLUGIN");
    void *handle, *symbol;
    ds_plugin_entry_fn *entry;
    const struct ds_plugin *plugin;

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
    on_device_share_heap();
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

/* A test of the stand-in for Criterion, in a thread whose stack lies in the heap. */
static inline int on_device_start(pthread_t *thread, void *(*run)(void *arg), void *arg)
{
    static void *stack; /* one test after the other */
    pthread_attr_t attributes;
    int rc;

    if (stack == NULL && posix_memalign(&stack, 4096, ON_DEVICE_STACK) != 0)
        return ENOMEM;
    if ((rc = pthread_attr_init(&attributes)) != 0)
        return rc;
    rc = pthread_attr_setstack(&attributes, stack, ON_DEVICE_STACK);
    if (rc == 0)
        rc = pthread_create(thread, &attributes, run, arg);
    (void)pthread_attr_destroy(&attributes);
    return rc;
}
#define mini_start on_device_start

int on_device_tests(int argc, char **argv);

int main(void)
{
    char name[] = "tests", *argv[] = {name, NULL};

    if (on_device_make_heap() != 0) {
        fprintf(stderr, "no heap of %d bytes\n", ON_DEVICE_HEAP);
        return 1;
    }
    return on_device_tests(1, argv);
}

#define main on_device_tests

#endif
