/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * choices.c - a file of choices; the contract is in choices.h.
 */
#include "kernels/cuda/choices.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int broken(const char *path, const char *what, struct ds_error *err)
{
    int code = errno;

    return ds_fail(err, EIO, "choices of matrix products: cannot %s '%s': %s", what, path,
                   strerror(code));
}

/* One write at the end of the file, then to the disk. */
static int append(int file, const char *path, const char *text, size_t bytes, struct ds_error *err)
{
    ssize_t written = write(file, text, bytes);

    if (written < 0)
        return broken(path, "write", err);
    if ((size_t)written != bytes)
        return ds_fail(err, ENOSPC, "choices of matrix products: no room for '%s'", path);
    return fdatasync(file) == 0 ? 0 : broken(path, "write", err);
}

/* The whole file, with a zero behind it; the caller frees. */
static int read_all(int file, const char *path, char **out, size_t *bytes, struct ds_error *err)
{
    struct stat st;
    size_t n = 0;
    char *text;

    if (fstat(file, &st) != 0)
        return broken(path, "look at", err);
    if (!S_ISREG(st.st_mode) || st.st_size > DS_CHOICES_BYTES)
        return ds_fail(err, EBADMSG, "'%s' is no file of choices of matrix products", path);
    text = malloc((size_t)st.st_size + 1);
    if (text == NULL)
        return ds_fail(err, ENOMEM, "no memory for the choices of matrix products");
    while (n < (size_t)st.st_size) {
        ssize_t got = pread(file, text + n, (size_t)st.st_size - n, (off_t)n);

        if (got <= 0) {
            free(text);
            return broken(path, "read", err);
        }
        n += (size_t)got;
    }
    text[n] = '\0';
    *out = text;
    *bytes = n;
    return 0;
}

/* What a process that died left of a line goes; a new file gets its first line. */
static int put_right(int file, const char *path, struct ds_error *err)
{
    static const char header[] = DS_CHOICES_HEADER "\n";
    size_t bytes = 0, whole;
    char *text = NULL;
    int rc = read_all(file, path, &text, &bytes, err);

    if (rc != 0)
        return rc;
    for (whole = bytes; whole > 0 && text[whole - 1] != '\n';)
        whole--;
    if (whole == 0 && strncmp(header, text, bytes) == 0) { /* empty, or a piece of the first line */
        rc = ftruncate(file, 0) == 0 ? append(file, path, header, sizeof(header) - 1, err)
                                     : broken(path, "mend", err);
    } else if (strncmp(text, header, sizeof(header) - 1) != 0) {
        rc = ds_fail(err, EBADMSG, "'%s' is no file of choices of matrix products", path);
    } else if (whole < bytes && ftruncate(file, (off_t)whole) != 0) {
        rc = broken(path, "mend", err);
    }
    free(text);
    return rc;
}

int ds__choices_open(int *file, const char *path, struct ds_error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    int rc;

    *file = -1;
    if (fd < 0)
        return broken(path, "open", err);
    do {
        rc = flock(fd, LOCK_EX);
    } while (rc != 0 && errno == EINTR);
    rc = rc == 0 ? put_right(fd, path, err) : broken(path, "lock", err);
    if (rc != 0) {
        (void)close(fd);
        return rc;
    }
    *file = fd;
    return 0;
}

/* Words of 16 digits, a space before each, to the end of the line. */
static bool parse(const char *at, uint64_t word[DS_CHOICE_WORDS])
{
    for (size_t i = 0; i < DS_CHOICE_WORDS; i++) {
        if (*at++ != ' ' || strspn(at, "0123456789abcdef") != 16)
            return false;
        word[i] = strtoull(at, NULL, 16);
        at += 16;
    }
    return *at == '\n';
}

int ds__choices_find(int file, const char *path, const char *key, uint64_t word[DS_CHOICE_WORDS],
                     bool *found, struct ds_error *err)
{
    size_t bytes = 0, length = strlen(key), number = 1;
    char *text = NULL;
    int rc = read_all(file, path, &text, &bytes, err);

    *found = false;
    if (rc != 0)
        return rc;
    for (char *line = strchr(text, '\n'); rc == 0 && !*found && line != NULL && line[1] != '\0';
         line = strchr(line + 1, '\n')) {
        char *words;

        number++;
        if (strncmp(line + 1, key, length) != 0 || strncmp(line + 1 + length, " =", 2) != 0)
            continue;
        words = line + 1 + length + 2;
        *found = parse(words, word);
        if (!*found)
            rc = ds_fail(err, EBADMSG, "%s:%zu: a choice of a matrix product that is broken", path,
                         number);
    }
    free(text);
    return rc;
}

int ds__choices_add(int file, const char *path, const char *key,
                    const uint64_t word[DS_CHOICE_WORDS], struct ds_error *err)
{
    char line[DS_CHOICE_KEY + 8 + 17 * DS_CHOICE_WORDS];
    int n = snprintf(line, sizeof(line), "%s =", key);
    struct stat st;

    for (size_t i = 0; i < DS_CHOICE_WORDS && n > 0 && (size_t)n < sizeof(line); i++)
        n += snprintf(line + n, sizeof(line) - (size_t)n, " %016llx", (unsigned long long)word[i]);
    if (n < 0 || (size_t)n + 1 >= sizeof(line))
        return ds_fail(err, EINVAL, "a key of a choice that is too long");
    line[n++] = '\n';
    if (fstat(file, &st) != 0)
        return broken(path, "look at", err);
    if (st.st_size + n > DS_CHOICES_BYTES)
        return ds_fail(err, ENOSPC, "'%s' is full, remove it", path);
    return append(file, path, line, (size_t)n, err);
}
