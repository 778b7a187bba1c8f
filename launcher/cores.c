/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cores.c - the contract is in cores.h.
 */
#include "launcher/cores.h"

#include <stdio.h>

unsigned ds_cores_per_rank(unsigned allowed, unsigned ranks, unsigned wanted)
{
    if (wanted != 0)
        return wanted;
    return ranks == 0 || allowed / ranks == 0 ? 1 : allowed / ranks;
}

void ds_cores_share(const cpu_set_t *allowed, unsigned threads, unsigned local, cpu_set_t *mine)
{
    unsigned count = (unsigned)CPU_COUNT(allowed);
    unsigned at = 0;
    unsigned first = count == 0 ? 0 : (unsigned)(((unsigned long)local * threads) % count);

    CPU_ZERO(mine);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, allowed))
            continue;
        if ((at + count - first) % count < threads)
            CPU_SET(cpu, mine);
        at++;
    }
}

void ds_cores_text(const cpu_set_t *cores, char out[DS_CORES_TEXT])
{
    size_t len = 0;

    out[0] = '\0';
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        unsigned last = cpu;
        const char *comma = len > 0 ? "," : "";

        if (!CPU_ISSET(cpu, cores))
            continue;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, cores))
            last++;
        len += (size_t)(last == cpu ? snprintf(out + len, DS_CORES_TEXT - len, "%s%u", comma, cpu)
                                    : snprintf(out + len, DS_CORES_TEXT - len, "%s%u-%u", comma,
                                               cpu, last));
        cpu = last;
    }
}
