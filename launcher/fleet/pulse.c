/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pulse.c - the contract is in pulse.h.
 */
#include "launcher/fleet/pulse.h"

#include <assert.h>
#include <stdlib.h>

#define NS_PER_MS UINT64_C(1000000)

enum { BEATS_PER_LIMIT = 8, SHORTEST_MS = 50, LONGEST_MS = 1000 };

static struct ds_pulse_host *host_at(const struct ds_pulse *pulse, uint32_t host)
{
    char *base = (char *)pulse->args.host;

    assert(host < pulse->args.hosts);
    return (struct ds_pulse_host *)(void *)(base + (size_t)host * pulse->args.stride);
}

uint64_t ds_pulse_interval_ns(uint64_t silent_ns)
{
    uint64_t ns = silent_ns / BEATS_PER_LIMIT;

    if (silent_ns == 0 || ns > LONGEST_MS * NS_PER_MS)
        return LONGEST_MS * NS_PER_MS;
    return ns < SHORTEST_MS * NS_PER_MS ? SHORTEST_MS * NS_PER_MS : ns;
}

void ds_pulse_init(struct ds_pulse *pulse, const struct ds_pulse_args *args, uint64_t now_ns)
{
    *pulse = (struct ds_pulse){.args = *args,
                               .oldest = DS_PULSE_NOBODY,
                               .newest = DS_PULSE_NOBODY,
                               .looked_ns = now_ns,
                               .beat_ns = now_ns};
}

bool ds_pulse_look(struct ds_pulse *pulse, uint64_t now_ns)
{
    uint64_t interval_ns = ds_pulse_interval_ns(pulse->args.silent_ns);
    uint64_t gap_ns = now_ns - pulse->looked_ns;

    pulse->looked_ns = now_ns;
    if (gap_ns <= 3 * interval_ns)
        return false;
    pulse->judge_ns = now_ns + 2 * interval_ns;
    /* The last beat was sent up to an interval before. */
    return pulse->args.silent_ns != 0 && gap_ns + 2 * interval_ns >= pulse->args.silent_ns;
}

void ds_pulse_stall(struct ds_pulse *pulse, uint64_t now_ns)
{
    pulse->looked_ns = now_ns;
    pulse->judge_ns = now_ns + 2 * ds_pulse_interval_ns(pulse->args.silent_ns);
}

bool ds_pulse_due(struct ds_pulse *pulse, uint64_t now_ns)
{
    if (now_ns < pulse->beat_ns)
        return false;
    pulse->beat_ns = now_ns + ds_pulse_interval_ns(pulse->args.silent_ns);
    return true;
}

/* --- hosts ------------------------------------------------------------------------------------ */

void ds_pulse_forget(struct ds_pulse *pulse, uint32_t host)
{
    struct ds_pulse_host *entry = host_at(pulse, host);

    if (!entry->listed)
        return;
    if (entry->older != DS_PULSE_NOBODY)
        host_at(pulse, entry->older)->newer = entry->newer;
    else
        pulse->oldest = entry->newer;
    if (entry->newer != DS_PULSE_NOBODY)
        host_at(pulse, entry->newer)->older = entry->older;
    else
        pulse->newest = entry->older;
    entry->listed = false;
}

void ds_pulse_heard(struct ds_pulse *pulse, uint32_t host, uint64_t now_ns)
{
    struct ds_pulse_host *entry = host_at(pulse, host);

    entry->heard_ns = now_ns;
    if (entry->listed && pulse->newest == host)
        return;
    ds_pulse_forget(pulse, host);
    entry->older = pulse->newest;
    entry->newer = DS_PULSE_NOBODY;
    if (pulse->newest != DS_PULSE_NOBODY)
        host_at(pulse, pulse->newest)->newer = host;
    else
        pulse->oldest = host;
    pulse->newest = host;
    entry->listed = true;
}

/* When the host that was heard longest ago will have been silent for too long. */
static uint64_t silence_ns(const struct ds_pulse *pulse)
{
    uint64_t ns;

    if (pulse->args.silent_ns == 0 || pulse->oldest == DS_PULSE_NOBODY)
        return UINT64_MAX;
    ns = host_at(pulse, pulse->oldest)->heard_ns + pulse->args.silent_ns;
    return ns < pulse->judge_ns ? pulse->judge_ns : ns;
}

uint32_t ds_pulse_silent(const struct ds_pulse *pulse, uint64_t now_ns)
{
    return now_ns >= silence_ns(pulse) ? pulse->oldest : DS_PULSE_NOBODY;
}

/* --- steps ------------------------------------------------------------------------------------ */

void ds_pulse_step(struct ds_pulse *pulse, uint64_t step, uint64_t now_ns)
{
    if (pulse->moved_ns != 0 && step <= pulse->step)
        return;
    if (pulse->moved_ns != 0 && pulse->busy == 0)
        pulse->took_ns[pulse->steps++ % DS_PULSE_STEPS] = now_ns - pulse->moved_ns;
    pulse->step = step;
    pulse->moved_ns = now_ns;
}

void ds_pulse_busy(struct ds_pulse *pulse, int change, uint64_t now_ns)
{
    assert(change >= 0 || pulse->busy > 0);
    pulse->busy = change < 0 ? pulse->busy - 1 : pulse->busy + (uint32_t)change;
    if (pulse->moved_ns != 0)
        pulse->moved_ns = now_ns;
}

static int by_size(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

uint64_t ds_pulse_median_ns(const struct ds_pulse *pulse)
{
    unsigned count = pulse->steps < DS_PULSE_STEPS ? pulse->steps : DS_PULSE_STEPS;
    uint64_t sorted[DS_PULSE_STEPS];

    for (unsigned i = 0; i < count; i++)
        sorted[i] = pulse->took_ns[i];
    qsort(sorted, count, sizeof(sorted[0]), by_size);
    return count == 0 ? 0 : sorted[count / 2];
}

uint64_t ds_pulse_hang_ns(const struct ds_pulse *pulse)
{
    uint64_t least = pulse->args.hang_ns, ns;

    if (least == 0 || pulse->steps == 0 || pulse->busy > 0)
        return UINT64_MAX;
    ns = DS_HANG_STEPS * ds_pulse_median_ns(pulse);
    ns = pulse->moved_ns + (ns > least ? ns : least);
    return ns < pulse->judge_ns ? pulse->judge_ns : ns;
}

uint64_t ds_pulse_next_ns(const struct ds_pulse *pulse)
{
    uint64_t silence = silence_ns(pulse);

    return silence < pulse->beat_ns ? silence : pulse->beat_ns;
}
