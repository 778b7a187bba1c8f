/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cpu.c - the CPU device: its threads, its memory, its instruction set.
 *
 * DSRUN_CPU_ISA=base|v3|v4 in the environment takes lesser instructions than
 * the machine has.
 */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/limits.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/op.h"

enum { PAGE = 4096, HUGE_FROM = 4 << 20 };
enum { PEAK_RUNS = 8, PEAK_TURNS = 150000, PEAK_EXTENT = 512 };

struct cpu_device {
    struct ds_device device; /* first */
    struct ds_cpu_stream stream;
};

static bool has_base(void)
{
    return true;
}

#ifdef __x86_64__
static bool has_v3(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
}

static bool has_v4(void)
{
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

static const struct isa {
    const char *name, *text;
    bool (*usable)(void);
    const struct ds_kernels *kernels;
    double (*multiply_add)(size_t turns);
} isas[] = {
/* best first */
#ifdef __x86_64__
    {"v4", "AVX-512", has_v4, &ds__cpu_kernels_v4, ds__cpu_multiply_add_v4},
    {"v3", "AVX2", has_v3, &ds__cpu_kernels_v3, ds__cpu_multiply_add_v3},
#endif
    {"base", "baseline", has_base, &ds__cpu_kernels_base, ds__cpu_multiply_add_base},
};

static int choose_isa(const struct isa **out, struct ds_error *err)
{
    const char *wanted = getenv("DSRUN_CPU_ISA");

    for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
        if (isas[i].usable() && (wanted == NULL || strcmp(wanted, isas[i].name) == 0)) {
            *out = &isas[i];
            return 0;
        }
    }
    return ds_fail(err, ENOTSUP, "this processor lacks the instruction set '%s' of DSRUN_CPU_ISA",
                   wanted);
}

static int map(size_t bytes, void **out, struct ds_error *err)
{
    void *memory;

    if (bytes == 0 || bytes > PTRDIFF_MAX)
        return ds_fail(err, EINVAL, "cannot allocate %zu bytes", bytes);
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return ds_fail(err, ENOMEM, "cannot allocate %zu bytes: %s", bytes, strerror(errno));
    if (bytes >= HUGE_FROM)
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* a wish: small pages work as well */
    *out = memory;
    return 0;
}

static void cpu_close(struct ds_device *device)
{
    struct cpu_device *cpu = (struct cpu_device *)(void *)device;

    ds__pool_close(cpu->stream.pool);
    ds__gemm_close(cpu->stream.gemm);
    if (cpu->stream.scratch != NULL)
        munmap(cpu->stream.scratch, cpu->stream.scratch_bytes);
    free(cpu);
}

static int fill(struct cpu_device *cpu, const struct ds_device_args *args, struct ds_error *err)
{
    struct ds_cpu_stream *stream = &cpu->stream;
    const struct isa *isa = NULL;
    size_t bytes = (args->scratch_bytes / PAGE + 1) * PAGE;
    void *memory = NULL;
    int rc;

    rc = choose_isa(&isa, err);
    if (rc == 0)
        rc = map(bytes, &memory, err);
    if (rc != 0)
        return rc;
    stream->scratch = memory;
    stream->scratch_bytes = bytes;
    stream->stream.kernels = isa->kernels;
    stream->multiply_add = isa->multiply_add;
    rc = ds__gemm_open(&stream->gemm, args->threads, err);
    if (rc == 0)
        rc = ds__pool_open(&stream->pool, args->threads, args->cores, err);
    if (rc != 0)
        return rc;
    snprintf(cpu->device.description, sizeof(cpu->device.description), "cpu, %s, %u thread%s, %s",
             isa->text, args->threads, args->threads == 1 ? "" : "s", ds__gemm_describe());
    return 0;
}

static int cpu_open(struct ds_device **device, const struct ds_device_args *args,
                    struct ds_error *err)
{
    struct cpu_device *cpu = calloc(1, sizeof(*cpu));
    int rc;

    if (cpu == NULL)
        return ds_fail(err, ENOMEM, "no memory for a device");
    cpu->device.backend = &ds_backend_cpu;
    cpu->device.stream = &cpu->stream.stream;
    cpu->stream.stream.device = &cpu->device;
    rc = fill(cpu, args, err);
    if (rc != 0) {
        cpu_close(&cpu->device);
        return rc;
    }
    *device = &cpu->device;
    return 0;
}

static int cpu_alloc(struct ds_device *device, size_t bytes, void **out, struct ds_error *err)
{
    (void)device;
    return map(bytes, out, err);
}

static void cpu_free(struct ds_device *device, void *memory, size_t bytes)
{
    (void)device;
    munmap(memory, bytes);
}

int ds__cpu_scratch(struct ds_stream *stream, size_t bytes, void *out, struct ds_error *err)
{
    struct ds_cpu_stream *cpu = ds__cpu_stream(stream);

    if (bytes > cpu->scratch_bytes)
        return ds_fail(err, ENOMEM, "an operation needs %zu bytes of scratch, the device has %zu",
                       bytes, cpu->scratch_bytes);
    *(void **)out = cpu->scratch;
    return 0;
}

struct peak {
    double (*multiply_add)(size_t turns);
    size_t turns;
    double done[DS_MAX_THREADS]; /* by task */
};

static void peak_task(void *arg, size_t task, unsigned thread)
{
    struct peak *peak = arg;

    (void)thread;
    peak->done[task] = peak->multiply_add(peak->turns);
}

static double registers_peak(struct ds_device *device)
{
    struct ds_stream *stream = device->stream;
    struct peak peak = {.multiply_add = ds__cpu_stream(stream)->multiply_add, .turns = PEAK_TURNS};
    unsigned threads = ds__cpu_threads(stream);
    double best = 0.0;

    for (int run = 0; run < PEAK_RUNS; run++) {
        uint64_t start = ds_clock_mono_ns();
        double done = 0.0, rate;

        ds__cpu_run(stream, threads, peak_task, &peak);
        for (unsigned i = 0; i < threads; i++)
            done += peak.done[i];
        rate = done * 1e9 / (double)(ds_clock_mono_ns() - start + 1);
        best = rate > best ? rate : best;
    }
    return best;
}

/* 0 where the product cannot run: the device was opened for no products of this type. */
static double product_peak(struct ds_device *device, enum ds_dtype type)
{
    const size_t n = PEAK_EXTENT, bytes = n * n * ds_dtype_bytes(type);
    struct ds_error ignored = {0};
    double best = 0.0;
    void *memory;
    int rc = map(3 * bytes, &memory, &ignored); /* zeros */

    if (rc != 0)
        return 0.0;
    for (int run = 0; rc == 0 && run < PEAK_RUNS; run++) {
        const struct ds_matmul_args args = {.m = n,
                                            .n = n,
                                            .k = n,
                                            .in_type = type,
                                            .out_type = type,
                                            .a = memory,
                                            .b = (char *)memory + bytes,
                                            .d = (char *)memory + 2 * bytes,
                                            .lda = n,
                                            .ldb = n,
                                            .ldd = n};
        uint64_t start = ds_clock_mono_ns();
        double rate;

        rc = ds_matmul(&args, device->stream, &ignored);
        rate = 2.0 * (double)(n * n * n) * 1e9 / (double)(ds_clock_mono_ns() - start + 1);
        best = rc == 0 && rate > best ? rate : best;
    }
    (void)munmap(memory, 3 * bytes);
    return best;
}

static double cpu_peak(struct ds_device *device, enum ds_dtype type)
{
    double best = registers_peak(device);
    double product = type == DS_F32 ? 0.0 : product_peak(device, type == DS_U8 ? DS_BF16 : type);

    return product > best ? product : best;
}

const struct ds_backend ds_backend_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .peak = cpu_peak,
};
