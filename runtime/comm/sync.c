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

static void end_gate(struct ds__gate *gate)
{
    int saved = errno; /* may run in a signal handler */

    (void)atomic_fetch_or(&gate->epoch, ABORTED);
    futex_wake_all(&gate->epoch);
    errno = saved;
}

void ds__sync_abort(struct ds__control *control, unsigned name)
{
    uint32_t nobody = 0;

    (void)atomic_compare_exchange_strong(&control->aborter, &nobody, name + 1);
    end_gate(&control->gate);
}

void ds__sync_abort_all(const struct ds__region *region, unsigned name)
{
    struct ds__control *control = ds__region_control(region);

    ds__sync_abort(control, name);
    for (unsigned slot = 1; slot <= atomic_load(&control->slots); slot++)
        for (unsigned rank = 0; rank < region->ranks; rank++)
            end_gate(ds__region_gate(region, rank, slot));
}

static int canceled(const struct ds__sync *sync, const struct ds_comm_call *call,
                    struct ds_error *err)
{
    uint32_t aborter = atomic_load(&ds__region_control(sync->region)->aborter) - 1;

    if (aborter == sync->name[sync->me])
        return ds_fail(err, ECANCELED, "%s was stopped", ds_comm_op_name(call->op));
    return ds_fail(err, ECANCELED, "%s was stopped by rank %" PRIu32, ds_comm_op_name(call->op),
                   aborter);
}

int ds__sync_stopped(const struct ds__sync *sync, const struct ds_comm_call *call,
                     struct ds_error *err)
{
    return (atomic_load(&sync->gate->epoch) & ABORTED) != 0 ? canceled(sync, call, err) : 0;
}

static struct ds__seat *seat_of(const struct ds__sync *sync, unsigned member)
{
    return ds__region_seat(sync->region, sync->desk[member], sync->slot);
}

/* The first member that has come to fewer barriers than this one. */
static unsigned find_missing(const struct ds__sync *sync)
{
    uint32_t mine = atomic_load(&seat_of(sync, sync->me)->barriers);

    for (unsigned member = 0; member < sync->members; member++)
        if (atomic_load(&seat_of(sync, member)->barriers) != mine)
            return sync->name[member];
    return sync->name[sync->me];
}

static int timed_out(const struct ds__sync *sync, const struct ds_comm_call *call,
                     struct ds_error *err)
{
    unsigned missing = find_missing(sync);

    ds__sync_abort_all(sync->region, sync->name[sync->me]);
    return ds_fail(err, ETIMEDOUT, "rank %u did not come to %s of %zu bytes within %" PRIu64 " ms",
                   missing, ds_comm_op_name(call->op), call->bytes, sync->timeout_ns / NS_PER_MS);
}

static bool poll_epoch(struct ds__gate *gate, uint32_t epoch, unsigned polls)
{
    for (unsigned i = 0; i < polls; i++) {
        if (atomic_load_explicit(&gate->epoch, memory_order_acquire) != epoch)
            return true;
        pause_core();
    }
    return false;
}

/* Sleep until the epoch is another than `epoch`; false at the deadline. */
static bool sleep_epoch(const struct ds__sync *sync, uint32_t epoch, uint64_t began)
{
    struct ds__gate *gate = sync->gate;
    bool moved = false;

    (void)atomic_fetch_add(&gate->sleepers, 1);
    while (!(moved = atomic_load(&gate->epoch) != epoch)) {
        uint64_t nap = NAP_NS;

        if (sync->timeout_ns != 0) {
            uint64_t waited = ds_clock_mono_ns() - began;

            if (waited >= sync->timeout_ns)
                break;
            if (sync->timeout_ns - waited < nap)
                nap = sync->timeout_ns - waited;
        }
        futex_wait(&gate->epoch, epoch, nap);
    }
    (void)atomic_fetch_sub(&gate->sleepers, 1);
    return moved;
}

static int wait_epoch(struct ds__sync *sync, uint32_t epoch, const struct ds_comm_call *call,
                      struct ds_error *err)
{
    struct ds__gate *gate = sync->gate;
    uint64_t began = ds_clock_mono_ns();
    bool moved = poll_epoch(gate, epoch, sync->spin) || sleep_epoch(sync, epoch, began);
    uint32_t now = atomic_load(&gate->epoch);

    sync->wait_ns += ds_clock_mono_ns() - began;
    if (!moved && now == epoch)
        return timed_out(sync, call, err);
    return (now & ~(uint32_t)ABORTED) != epoch ? 0 : canceled(sync, call, err);
}

int ds__sync_barrier(struct ds__sync *sync, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__gate *gate = sync->gate;
    uint32_t epoch = atomic_load(&gate->epoch);

    if ((epoch & ABORTED) != 0)
        return canceled(sync, call, err);
    (void)atomic_fetch_add_explicit(&seat_of(sync, sync->me)->barriers, 1, memory_order_relaxed);
    if (atomic_fetch_add(&gate->arrived, 1) + 1 < sync->members)
        return wait_epoch(sync, epoch, call, err);
    atomic_store(&gate->arrived, 0);
    (void)atomic_fetch_add(&gate->epoch, EPOCH);
    if (atomic_load(&gate->sleepers) != 0)
        futex_wake_all(&gate->epoch);
    return 0;
}
