/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * shared.c - a race in shared memory between two that map it each for itself, as ranks do.  It is
 * seen only when they are given one mapping (tests/support/mini/one_map.c).
 */
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES = 4096 };

static int fd;

static void *count(void *arg)
{
    volatile unsigned *number = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    (void)arg;
    if (number == MAP_FAILED)
        return NULL;
    for (int i = 0; i < 100000; i++)
        *number += 1;
    return NULL; /* the mapping stays: both have it at the same time */
}

int main(void)
{
    pthread_t thread;

    fd = memfd_create("shared", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, BYTES) != 0 || pthread_create(&thread, NULL, count, NULL) != 0)
        return 0;
    (void)count(NULL);
    (void)pthread_join(thread, NULL);
    return 0;
}
