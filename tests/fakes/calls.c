/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * calls.c - how often each call of the fake CUDA was made; told in a file when the process ends.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakes/fake.h"

enum { CALLS = 64, NAME = 40 };

static struct {
    pthread_mutex_t lock;
    struct {
        char name[NAME];
        unsigned long count;
    } call[CALLS];
} counted = {.lock = PTHREAD_MUTEX_INITIALIZER};

unsigned long fake_number(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);

    return text == NULL ? otherwise : strtoul(text, NULL, 10);
}

unsigned long fake_count(const char *name)
{
    unsigned long count = 0;

    pthread_mutex_lock(&counted.lock);
    for (unsigned i = 0; i < CALLS && count == 0; i++) {
        if (counted.call[i].name[0] == '\0')
            snprintf(counted.call[i].name, NAME, "%s", name);
        if (strcmp(counted.call[i].name, name) == 0)
            count = ++counted.call[i].count;
    }
    pthread_mutex_unlock(&counted.lock);
    return count;
}

__attribute__((destructor)) static void tell_counts(void)
{
    const char *path = getenv("FAKE_CUDA_COUNT"), *rank = getenv("RANK");
    char name[512];
    FILE *file = NULL;

    if (path != NULL) {
        snprintf(name, sizeof(name), "%s.%s", path, rank != NULL ? rank : "0");
        file = fopen(name, "we");
    }

    for (unsigned i = 0; file != NULL && i < CALLS && counted.call[i].name[0] != '\0'; i++)
        fprintf(file, "%s %lu\n", counted.call[i].name, counted.call[i].count);
    if (file != NULL)
        fclose(file);
}
