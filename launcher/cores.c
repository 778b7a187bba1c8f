/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cores.c - the contract is in cores.h.
 */
#include "launcher/cores.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

unsigned ds_cores_allowed(cpu_set_t *cores)
{
    CPU_ZERO(cores);
    if (sched_getaffinity(0, sizeof(*cores), cores) != 0)
        CPU_SET(0, cores);
    return (unsigned)CPU_COUNT(cores);
}

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

/* One number of a list; -1: there is none. */
static long next_core(const char **text)
{
    char *end;
    long core;

    if (!isdigit((unsigned char)**text))
        return -1;
    core = strtol(*text, &end, 10); /* too large: LONG_MAX */
    *text = end;
    return core < CPU_SETSIZE ? core : -1;
}

bool ds_cores_parse(const char *text, cpu_set_t *cores)
{
    CPU_ZERO(cores);
    while (*text != '\0' && *text != '\n') {
        long first = next_core(&text), last = first;

        if (*text == '-') {
            text++;
            last = next_core(&text);
        }
        if (first < 0 || last < first || (*text == ',' && !isdigit((unsigned char)text[1])))
            return false;
        for (long core = first; core <= last; core++)
            CPU_SET((unsigned)core, cores);
        if (*text == ',')
            text++;
        else if (*text != '\0' && *text != '\n')
            return false;
    }
    return *text == '\0' || text[1] == '\0';
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
