/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * replay.c - run one fuzz target over its seeds, with any compiler.
 *
 * Linked with a fuzz_<target>.o, this makes the seeds of tests/fuzz/corpus/<target>/ regression
 * tests of `make check` and of every sanitizer build: one TAP line per seed.  The name of the target
 * is the program's name after "replay_".  A seed named *.hex is pairs of hex digits and white space.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEED_BYTES_MAX = 1 << 20 };

static size_t read_seed(const char *path, uint8_t *out)
{
    FILE *file = fopen(path, "rbe");
    size_t len = file ? fread(out, 1, SEED_BYTES_MAX, file) : 0;

    if (file)
        fclose(file);
    return len;
}

static unsigned hex_value(int c)
{
    return isdigit(c) ? (unsigned)(c - '0') : (unsigned)(tolower(c) - 'a' + 10);
}

/* In place; returns the bytes decoded. */
static size_t decode_hex(uint8_t *bytes, size_t len)
{
    size_t digits = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned nibble;

        if (!isxdigit(bytes[i]))
            continue;
        nibble = hex_value(bytes[i]);
        if (digits % 2 == 0)
            bytes[digits / 2] = (uint8_t)(nibble << 4);
        else
            bytes[digits / 2] |= (uint8_t)nibble;
        digits++;
    }
    return digits / 2;
}

/* An exact copy, so that a sanitizer sees a read past the end. */
static void run_exact(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);

    if (!copy)
        abort();
    memcpy(copy, bytes, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static unsigned replay(const char *folder, FILE *tap)
{
    static uint8_t bytes[SEED_BYTES_MAX];
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, alphasort);
    unsigned ran = 0;

    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name, *dot = strrchr(name, '.');
        char path[1024];
        size_t len;

        if (name[0] != '.') {
            snprintf(path, sizeof(path), "%s/%s", folder, name);
            len = read_seed(path, bytes);
            if (dot && strcmp(dot, ".hex") == 0)
                len = decode_hex(bytes, len);
            run_exact(bytes, len);
            fprintf(tap, "ok - seed %s\n", name);
            ran++;
        }
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    return ran;
}

int main(int argc, char **argv)
{
    const char *name = strstr(argv[0], "replay_");
    FILE *tap = stdout;
    char folder[512];
    unsigned ran;

    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], "--tap=", 6) == 0 && !(tap = fopen(argv[i] + 6, "we")))
            return 2;
    if (!name)
        return 2;
    snprintf(folder, sizeof(folder), "tests/fuzz/corpus/%s", name + 7);
    ran = replay(folder, tap);
    if (ran == 0)
        fprintf(tap, "not ok - no seed in %s\n", folder);
    if (tap != stdout)
        fclose(tap);
    return ran == 0;
}
