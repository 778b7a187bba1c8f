/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * sync.c - the contract is in sync.h.
 */
#include "runtime/comm/sync.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum { NS_PER_MS = 1000000, NAP_NS = 100 * NS_PER_MS };
enum { ABORTED = 1, EPOCH = 2 }; /* bits of the epoch word */

static void pause_core(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Ends early for any reason; the caller looks at the word again. */
static void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t ns)
{
    struct timespec nap = {.tv_sec = (time_t)(ns / (1000 * NS_PER_MS)),
                           .tv_nsec = (long)(ns % (1000 * NS_PER_MS))};

    (void)syscall(SYS_futex, word, FUTEX_WAIT, expected, &nap, NULL, 0);
}

void ds__sync_abort(struct ds__control *control, unsigned rank)
{
    uint32_t nobody = 0;
    int saved = errno; /* may run in a signal handler */

    (void)atomic_compare_exchange_strong(&control->aborter, &nobody, rank + 1);
    (void)atomic_fetch_or(&control->epoch, ABORTED);
    futex_wake_all(&control->epoch);
    errno = saved;
}

static int canceled(const struct ds__sync *sync, const struct ds_comm_call *call,
                    struct ds_error *err)
{
    uint32_t aborter = atomic_load(&ds__region_control(sync->region)->aborter) - 1;

    if (aborter == sync->rank)
        return ds_fail(err, ECANCELED, "%s was stopped", ds_comm_op_name(call->op));
    return ds_fail(err, ECANCELED, "%s was stopped by rank %" PRIu32, ds_comm_op_name(call->op),
                   aborter);
}

/* The first rank that has come to fewer barriers than this one. */
static unsigned find_missing(const struct ds__sync *sync)
{
    uint32_t mine = atomic_load(&ds__region_seat(sync->region, sync->rank)->barriers);

    for (unsigned rank = 0; rank < sync->world; rank++)
        if (atomic_load(&ds__region_seat(sync->region, rank)->barriers) != mine)
            return rank;
    return sync->rank;
}

static int timed_out(const struct ds__sync *sync, const struct ds_comm_call *call,
                     struct ds_error *err)
{
    unsigned missing = find_missing(sync);

    ds__sync_abort(ds__region_control(sync->region), sync->rank);
    return ds_fail(err, ETIMEDOUT, "rank %u did not come to %s of %zu bytes within %" PRIu64 " ms",
                   missing, ds_comm_op_name(call->op), call->bytes, sync->timeout_ns / NS_PER_MS);
}

static bool poll_epoch(struct ds__control *control, uint32_t epoch, unsigned polls)
{
    for (unsigned i = 0; i < polls; i++) {
        if (atomic_load_explicit(&control->epoch, memory_order_acquire) != epoch)
            return true;
        pause_core();
    }
    return false;
}

/* Sleep until the epoch is another than `epoch`; false at the deadline. */
static bool sleep_epoch(const struct ds__sync *sync, struct ds__control *control, uint32_t epoch,
                        uint64_t began)
{
    bool moved = false;

    (void)atomic_fetch_add(&control->sleepers, 1);
    while (!(moved = atomic_load(&control->epoch) != epoch)) {
        uint64_t nap = NAP_NS;

        if (sync->timeout_ns != 0) {
            uint64_t waited = ds_clock_mono_ns() - began;

            if (waited >= sync->timeout_ns)
                break;
            if (sync->timeout_ns - waited < nap)
                nap = sync->timeout_ns - waited;
        }
        futex_wait(&control->epoch, epoch, nap);
    }
    (void)atomic_fetch_sub(&control->sleepers, 1);
    return moved;
}

static int wait_epoch(struct ds__sync *sync, uint32_t epoch, const struct ds_comm_call *call,
                      struct ds_error *err)
{
    struct ds__control *control = ds__region_control(sync->region);
    uint64_t began = ds_clock_mono_ns();
    bool moved = poll_epoch(control, epoch, sync->spin) || sleep_epoch(sync, control, epoch, began);
    uint32_t now = atomic_load(&control->epoch);

    sync->wait_ns += ds_clock_mono_ns() - began;
    if (!moved && now == epoch)
        return timed_out(sync, call, err);
    return (now & ~(uint32_t)ABORTED) != epoch ? 0 : canceled(sync, call, err);
}

int ds__sync_barrier(struct ds__sync *sync, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__control *control = ds__region_control(sync->region);
    uint32_t epoch = atomic_load(&control->epoch);

    if ((epoch & ABORTED) != 0)
        return canceled(sync, call, err);
    (void)atomic_fetch_add_explicit(&ds__region_seat(sync->region, sync->rank)->barriers, 1,
                                    memory_order_relaxed);
    if (atomic_fetch_add(&control->arrived, 1) + 1 < sync->world)
        return wait_epoch(sync, epoch, call, err);
    atomic_store(&control->arrived, 0);
    (void)atomic_fetch_add(&control->epoch, EPOCH);
    if (atomic_load(&control->sleepers) != 0)
        futex_wake_all(&control->epoch);
    return 0;
}
