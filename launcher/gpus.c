/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpus.c - the contract is in gpus.h.
 *
 * Of NVML only what every version says the same way: the first form of the memory, and a count of
 * processes that is asked for without a list of them.
 */
#include "launcher/gpus.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fsio.h"

_Static_assert(sizeof(struct ds_gpus) <= PIPE_BUF, "an answer is written in one piece");

/* --- what the libraries say ------------------------------------------------------------------- */

enum { NVML_OK = 0, NVML_INSUFFICIENT_SIZE = 7 };

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml {
    int (*init)(void);
    int (*count)(unsigned *count);
    int (*device)(unsigned index, void **device);
    int (*memory)(void *device, struct nvml_memory *memory);
    int (*processes)(void *device, unsigned *count, void *list);
};

static bool find(void *library, const char *symbol, void *out)
{
    void *found = dlsym(library, symbol);

    memcpy(out, &found, sizeof(found)); /* ISO C has no cast from an object to a function */
    return found != NULL;
}

static void ask_device(const struct nvml *nvml, unsigned index, struct ds_gpu *gpu)
{
    struct nvml_memory memory;
    unsigned processes = 0;
    void *device;
    int rc = nvml->device(index, &device);

    if (rc != NVML_OK || nvml->memory(device, &memory) != NVML_OK)
        return;
    rc = nvml->processes(device, &processes, NULL);
    if (rc != NVML_OK && rc != NVML_INSUFFICIENT_SIZE)
        return;
    *gpu = (struct ds_gpu){
        .used_bytes = memory.used, .total_bytes = memory.total, .processes = processes};
}

static void ask_nvml(struct ds_gpus *gpus)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    struct nvml nvml;
    unsigned count = 0;

    if (library == NULL || !find(library, "nvmlInit_v2", &nvml.init) ||
        !find(library, "nvmlDeviceGetCount_v2", &nvml.count) ||
        !find(library, "nvmlDeviceGetHandleByIndex_v2", &nvml.device) ||
        !find(library, "nvmlDeviceGetMemoryInfo", &nvml.memory) ||
        (!find(library, "nvmlDeviceGetComputeRunningProcesses_v3", &nvml.processes) &&
         !find(library, "nvmlDeviceGetComputeRunningProcesses", &nvml.processes)) ||
        nvml.init() != NVML_OK || nvml.count(&count) != NVML_OK)
        return;
    gpus->count = count < DS_GPUS_MOST ? count : DS_GPUS_MOST;
    for (unsigned i = 0; i < gpus->count; i++)
        ask_device(&nvml, i, &gpus->gpu[i]);
}

static void ask_nccl(struct ds_gpus *gpus)
{
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    int (*version)(int *version), number = 0;

    if (library != NULL && find(library, "ncclGetVersion", &version) && version(&number) == 0 &&
        number > 0)
        gpus->nccl = (uint32_t)number;
}

/* --- children --------------------------------------------------------------------------------- */

struct child {
    pid_t pid;
    int fd; /* where it answers, -1: it could not be made */
};

/* The child: what a library prints is no part of the agent's frames. */
static _Noreturn void answer(int fd, void (*ask)(struct ds_gpus *gpus))
{
    struct ds_gpus gpus = {0};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i <= STDERR_FILENO; i++)
        if (null < 0 || dup2(null, i) < 0)
            _exit(1);
    ask(&gpus);
    _exit(ds_fs_write_all(fd, &gpus, sizeof(gpus), NULL) != 0);
}

static void start(struct child *child, void (*ask)(struct ds_gpus *gpus))
{
    int ends[2];

    child->fd = -1;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return;
    child->pid = fork();
    if (child->pid == 0)
        answer(ends[1], ask);
    (void)close(ends[1]);
    child->fd = ends[0];
    if (child->pid < 0) {
        (void)close(ends[0]);
        child->fd = -1;
    }
}

/* What it says until then, else nothing; it is gone afterwards. */
static void collect(struct child *child, uint64_t until_ns, struct ds_gpus *gpus)
{
    struct pollfd line = {.fd = child->fd, .events = POLLIN};
    uint64_t now_ns = ds_clock_mono_ns();
    int n = -1;

    *gpus = (struct ds_gpus){0};
    if (child->fd < 0)
        return;
    for (; n < 0 && now_ns < until_ns; now_ns = ds_clock_mono_ns()) {
        n = poll(&line, 1, (int)((until_ns - now_ns) / 1000000) + 1);
        if (n < 0 && errno != EINTR)
            break;
    }
    if (n <= 0 || read(child->fd, gpus, sizeof(*gpus)) != (ssize_t)sizeof(*gpus) ||
        gpus->count > DS_GPUS_MOST)
        *gpus = (struct ds_gpus){0};
    (void)close(child->fd);
    (void)kill(child->pid, SIGKILL);
    while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}

void ds__gpus_ask(struct ds_gpus *gpus, void (*nvml)(struct ds_gpus *gpus),
                  void (*nccl)(struct ds_gpus *gpus), unsigned wait_ms)
{
    uint64_t until_ns = ds_clock_mono_ns() + wait_ms * UINT64_C(1000000);
    struct child devices, library;
    struct ds_gpus found;

    start(&devices, nvml);
    start(&library, nccl);
    collect(&devices, until_ns, gpus);
    collect(&library, until_ns, &found);
    gpus->nccl = found.nccl;
}

void ds_gpus_ask(struct ds_gpus *gpus)
{
    ds__gpus_ask(gpus, ask_nvml, ask_nccl, DS_GPUS_WAIT_MS);
}

bool ds_gpu_is_free(const struct ds_gpu *gpu)
{
    uint64_t kept = gpu->total_bytes / 32; /* up to 1 GiB, where that is more, is the driver's */

    if (kept < UINT64_C(1) << 30)
        kept = UINT64_C(1) << 30;
    return gpu->total_bytes > 0 && gpu->processes == 0 && gpu->used_bytes <= kept;
}
