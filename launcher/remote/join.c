/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * join.c - the launcher's half of join.h.
 */
#include "launcher/remote/join.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "launcher/remote/door.h"
#include "launcher/remote/transport.h"

/* --- where, and the key ----------------------------------------------------------------------- */

int ds_join_at_parse(struct ds_join_at *at, const char *text, struct ds_error *err)
{
    const char *address = text, *end = NULL, *port = NULL;
    size_t len;

    if (text[0] == '[') {
        address = text + 1;
        end = strchr(text, ']');
        port = end != NULL && end[1] == ':' ? end + 2 : NULL;
        if (end == NULL || (port == NULL && end[1] != '\0'))
            return ds_fail(err, EINVAL, "'%s' is no ADDRESS:PORT", text);
    } else if (strchr(text, ':') == strrchr(text, ':')) {
        end = strchr(text, ':');
        port = end != NULL ? end + 1 : NULL;
    } /* an address of IPv6 by itself */
    len = end != NULL ? (size_t)(end - address) : strlen(address);
    if (len >= sizeof(at->address))
        return ds_fail(err, EINVAL, "'%s' is too long for an address", text);
    memcpy(at->address, address, len);
    at->address[len] = '\0';
    at->port = DS_JOIN_PORT;
    if (port == NULL)
        return 0;
    len = strspn(port, "0123456789");
    at->port = len > 0 && len <= 5 && port[len] == '\0' ? (unsigned)strtoul(port, NULL, 10) : 0;
    return at->port >= 1 && at->port <= 65535
               ? 0
               : ds_fail(err, EINVAL, "'%s': a port is a number from 1 to 65535", text);
}

int ds_join_key_read(const char *path, uint8_t key[DS_SEAL_KEY_BYTES], struct ds_error *err)
{
    char text[2 * DS_SEAL_KEY_BYTES + 2] = "";
    const char *end = NULL;
    struct stat file;
    size_t len = 0;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int rc = 0;

    if (fd < 0)
        return ds_fail(err, errno, "cannot read the key '%s': %s", path, strerror(errno));
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode))
        rc = ds_fail(err, EINVAL, "the key '%s' is no file", path);
    else if ((file.st_mode & (S_IRWXG | S_IRWXO)) != 0)
        rc = ds_fail(err, EACCES,
                     "the key '%s' is not for its owner alone, chmod 600 it (mode 0400 "
                     "of a secret's volume)",
                     path);
    n = rc == 0 ? read(fd, text, sizeof(text) - 1) : 0;
    if (rc == 0 && (n < 2 * DS_SEAL_KEY_BYTES ||
                    sodium_hex2bin(key, DS_SEAL_KEY_BYTES, text, 2 * DS_SEAL_KEY_BYTES, NULL, &len,
                                   &end) != 0 ||
                    len != DS_SEAL_KEY_BYTES || (*end != '\0' && *end != '\n') ||
                    file.st_size > 2 * DS_SEAL_KEY_BYTES + 1))
        rc = ds_fail(err, EINVAL,
                     "'%s' is no key: it must be %d hexadecimal digits, as 'dsrun join --make-key' "
                     "writes them",
                     path, 2 * DS_SEAL_KEY_BYTES);
    sodium_memzero(text, sizeof(text));
    (void)close(fd);
    return rc;
}

int ds_join_key_make(const char *path, struct ds_error *err)
{
    char text[2 * DS_SEAL_KEY_BYTES + 2];
    uint8_t key[DS_SEAL_KEY_BYTES];
    int fd, rc;

    if (sodium_init() < 0)
        return ds_fail(err, EIO, "libsodium cannot be used here");
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ds_fail(err, errno, "cannot write the key '%s': %s", path, strerror(errno));
    randombytes_buf(key, sizeof(key));
    (void)sodium_bin2hex(text, sizeof(text), key, sizeof(key));
    text[2 * DS_SEAL_KEY_BYTES] = '\n';
    rc = ds_fs_write_all(fd, text, sizeof(text) - 1, err);
    sodium_memzero(text, sizeof(text));
    sodium_memzero(key, sizeof(key));
    if (close(fd) != 0 && rc == 0)
        rc = ds_fail(err, errno, "cannot write the key '%s': %s", path, strerror(errno));
    if (rc != 0)
        (void)unlink(path);
    return rc;
}

/* --- the transport ---------------------------------------------------------------------------- */

struct join {
    struct ds_starter base;
    struct ds_door door;
    bool begun;
};

static int join_open(struct ds_starter **starter, const struct ds_transport_args *args,
                     struct ds_error *err)
{
    struct join *join = calloc(1, sizeof(*join));

    if (join == NULL)
        return ds_fail(err, ENOMEM, "no memory to wait for agents");
    join->base = (struct ds_starter){.transport = &ds_transport_join, .args = *args};
    join->door = (struct ds_door){.key = args->join->key, .ops = args->ops};
    *starter = &join->base;
    return 0;
}

static int join_start(struct ds_starter *starter, struct ds_remote *remote, struct ds_error *err)
{
    struct join *join = (struct join *)starter;

    (void)err;
    ds_door_expect(&join->door, remote);
    return 0;
}

static int begin(struct join *join, struct ds_error *err)
{
    const struct ds_join_site *site = join->base.args.join;
    const char *address = site->at.address[0] != '\0' ? site->at.address : NULL;
    int port;

    if (sodium_init() < 0)
        return ds_fail(err, EIO, "libsodium cannot be used here");
    port = ds_door_open(&join->door, join->base.args.loop, address, site->at.port, err);
    return port < 0 ? port : 0;
}

static uint64_t join_tick(struct ds_starter *starter, uint64_t now_ns)
{
    struct join *join = (struct join *)starter;
    uint64_t start_ns = starter->args.start_ns, due_ns;
    struct ds_error err = {0};

    if (!join->begun) {
        int rc = begin(join, &err);

        join->begun = true;
        if (rc != 0)
            ds_door_give_up(&join->door, rc, &err);
    }
    due_ns = ds_door_tick(&join->door, now_ns);
    if (join->door.waiting == NULL || start_ns == 0)
        return due_ns;
    if (now_ns >= start_ns) {
        ds_door_give_up(
            &join->door,
            ds_fail(&err, EHOSTUNREACH,
                    "it did not join in time: run 'dsrun join' there, with this key and this "
                    "name"),
            &err);
        return due_ns;
    }
    return due_ns == 0 || start_ns < due_ns ? start_ns : due_ns;
}

/* The agent ends with its connection. */
static void join_finish(struct ds_starter *starter, struct ds_remote *remote, bool force)
{
    struct join *join = (struct join *)starter;

    (void)force;
    ds_door_finish(&join->door, remote);
}

static void join_close(struct ds_starter *starter)
{
    struct join *join = (struct join *)starter;

    if (join == NULL)
        return;
    ds_door_close(&join->door);
    free(join);
}

const struct ds_transport ds_transport_join = {.name = "join",
                                               .open = join_open,
                                               .start = join_start,
                                               .tick = join_tick,
                                               .finish = join_finish,
                                               .close = join_close};
