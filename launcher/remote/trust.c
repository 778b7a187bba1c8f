/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * trust.c - the contract is in trust.h.
 *
 * ssh(1) appends to known_hosts without a lock and ssh-keygen(1) puts a new file in its place: one
 * write at the end of the file that has the name loses nothing of either.
 */
#include "launcher/remote/trust.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fsio.h"
#include "launcher/remote/known_hosts.h"

enum { SALT_BYTES = 20, OPEN_TRIES = 16, LINES_BYTES = 16 * 1024 * 1024 };

/* --- looking ---------------------------------------------------------------------------------- */

struct look {
    struct ds_trust *trust;
    struct ds_remote *remote;
    const struct ds_place *place;
    uint32_t places, down;
};

static bool same(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Where it belongs in the list; NULL: it is there already. */
static struct ds_trust_key **find_place(struct ds_trust *trust, const struct ds_shown_key *shown)
{
    struct ds_trust_key **at = &trust->keys;

    for (struct ds_trust_key *key = trust->keys; key != NULL; key = key->next)
        if (same(key->shown.name, shown->name) && same(key->shown.file, shown->file) &&
            key->shown.len == shown->len && memcmp(key->shown.blob, shown->blob, shown->len) == 0)
            return NULL;
    while (*at != NULL && strverscmp((*at)->shown.host, shown->host) <= 0)
        at = &(*at)->next;
    return at;
}

static void on_key(void *user, const struct ds_shown_key *shown)
{
    struct ds_trust *trust = ((struct look *)user)->trust;
    struct ds_trust_key **at = find_place(trust, shown);
    struct ds_trust_key *key = at == NULL ? NULL : ds_arena_alloc(&trust->arena, 1, sizeof(*key));

    if (at == NULL)
        return;
    trust->rc = -ENOMEM;
    if (key == NULL)
        return;
    *key = (struct ds_trust_key){.next = *at};
    key->shown.host = ds_arena_strdup(&trust->arena, shown->host);
    key->shown.address = ds_arena_strdup(&trust->arena, shown->address);
    key->shown.name = ds_arena_strdup(&trust->arena, shown->name);
    key->shown.file = shown->file == NULL ? NULL : ds_arena_strdup(&trust->arena, shown->file);
    key->shown.blob = ds_arena_strndup(&trust->arena, shown->blob, shown->len);
    key->shown.len = shown->len;
    if (key->shown.host == NULL || key->shown.address == NULL || key->shown.name == NULL ||
        key->shown.blob == NULL || (shown->file != NULL && key->shown.file == NULL))
        return;
    ds_key_type(key->type, shown->blob, shown->len);
    ds_key_fingerprint(key->print, shown->blob, shown->len);
    *at = key;
    trust->rc = 0;
}

static void on_down(struct ds_remote *remote, int rc, const struct ds_error *err)
{
    struct look *look = remote->user;
    struct ds_trust_host *host = &look->trust->host[remote - look->remote];

    host->rc = rc;
    if (err != NULL)
        host->err = *err;
    look->down++;
}

static int look_at_all(struct look *look, const struct ds_transport_args *args,
                       struct ds_error *err)
{
    const struct ds_transport *transport = &ds_transport_ssh;
    struct ds_starter *starter = NULL;
    int rc = transport->open(&starter, args, err);

    for (uint32_t i = 0; rc == 0 && i < look->places; i++) {
        look->remote[i] = (struct ds_remote){.host = look->place[i].spec, .user = look};
        rc = transport->start(starter, &look->remote[i], err);
        rc = ds_error_context(err, rc, "host '%s'", look->place[i].host);
    }
    while (rc == 0 && look->down < look->places) {
        uint64_t next_ns = transport->tick(starter, ds_clock_mono_ns());

        if (look->down < look->places)
            rc = ds_loop_turn(args->loop, ds_loop_timeout_ms(next_ns, ds_clock_mono_ns()), err);
    }
    for (uint32_t i = 0; starter != NULL && i < look->places; i++)
        transport->finish(starter, &look->remote[i], true);
    transport->close(starter);
    return rc;
}

int ds_trust_look(struct ds_trust *trust, const struct ds_place *place, uint32_t places,
                  double timeout_s, struct ds_error *err)
{
    static const struct ds_remote_ops ops = {.down = on_down}; /* nothing comes up */
    struct look look = {.trust = trust, .place = place, .places = places};
    struct ds_loop loop;
    struct ds_transport_args args = {.loop = &loop,
                                     .ops = &ops,
                                     .libexec = "",
                                     .lease_fd = -1,
                                     .apart = true,
                                     .push = DS_PUSH_NEVER,
                                     .key = on_key,
                                     .key_user = &look};
    int rc;

    *trust = (struct ds_trust){0};
    ds_arena_init(&trust->arena);
    (void)signal(SIGPIPE, SIG_IGN);
    trust->host = calloc(places, sizeof(*trust->host));
    look.remote = calloc(places, sizeof(*look.remote));
    if (trust->host == NULL || look.remote == NULL) {
        free(look.remote);
        return ds_fail(err, ENOMEM, "no memory for %u hosts", places);
    }
    if (timeout_s > 0)
        args.start_ns = ds_clock_mono_ns() + (uint64_t)(timeout_s * 1e9);
    rc = ds_loop_init(&loop, err);
    if (rc == 0) {
        rc = look_at_all(&look, &args, err);
        ds_loop_release(&loop);
    }
    free(look.remote);
    if (rc == 0 && trust->rc != 0)
        return ds_fail(err, ENOMEM, "no memory for the keys of %u hosts", places);
    return rc;
}

/* --- recording -------------------------------------------------------------------------------- */

static int make_folder(const char *file, struct ds_error *err)
{
    char folder[DS_MAX_PATH];
    const char *slash = strrchr(file, '/');

    if (slash == NULL || slash == file)
        return 0;
    if ((size_t)(slash - file) >= sizeof(folder))
        return ds_fail(err, EINVAL, "'%s': the path is too long", file);
    memcpy(folder, file, (size_t)(slash - file));
    folder[slash - file] = '\0';
    return mkdir(folder, 0700) == 0 || errno == EEXIST
               ? 0
               : ds_fail(err, errno, "cannot make '%s': %s", folder, strerror(errno));
}

/* The file, locked, while it has this name; or a negative errno. */
static int open_locked(const char *file, struct ds_error *err)
{
    for (int i = 0; i < OPEN_TRIES; i++) {
        int fd = open(file, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
        struct stat mine, now;

        if (fd < 0)
            return ds_fail(err, errno, "cannot write '%s': %s", file, strerror(errno));
        if (fstat(fd, &mine) != 0 || !S_ISREG(mine.st_mode) || mine.st_uid != geteuid()) {
            (void)close(fd);
            return ds_fail(err, EACCES, "'%s' is not a file of this user", file);
        }
        while (flock(fd, LOCK_EX) != 0)
            if (errno != EINTR) {
                int code = errno;

                (void)close(fd);
                return ds_fail(err, code, "cannot lock '%s': %s", file, strerror(code));
            }
        if (stat(file, &now) == 0 && now.st_ino == mine.st_ino && now.st_dev == mine.st_dev)
            return fd;
        (void)close(fd); /* another file was put in its place */
    }
    return ds_fail(err, EBUSY, "'%s' is being replaced all the time", file);
}

static int add_key(const struct ds_trust_key *key, const struct ds_buf *text, struct ds_buf *lines,
                   struct ds_error *err)
{
    const struct ds_shown_key *shown = &key->shown;
    const struct ds_known_entry *entry;
    unsigned char salt[SALT_BYTES];
    struct ds_known known = {0};
    enum ds_known_answer answer;
    int rc;

    ds_known_add(&known, shown->file, ds_buf_text(text), text->len, shown->name);
    ds_known_add(&known, shown->file, ds_buf_text(lines), lines->len, shown->name);
    answer = ds_known_check(&known, shown->blob, shown->len, &entry);
    if (answer == DS_KNOWN_TRUSTED)
        return 0;
    if (answer != DS_KNOWN_UNKNOWN)
        return ds_fail(err, EKEYREJECTED, "'%s' shows %s, but %s has another key for it",
                       shown->name, key->print, shown->file);
    if (known.hashed && getrandom(salt, sizeof(salt), 0) != (ssize_t)sizeof(salt))
        return ds_fail(err, errno, "cannot get random bytes: %s", strerror(errno));
    rc = ds_known_line(lines, shown->name, shown->blob, shown->len, known.hashed ? salt : NULL);
    return rc == 0 ? 0 : ds_fail(err, -rc, "cannot record the key of '%s'", shown->name);
}

static int append(int fd, const char *file, struct ds_trust_key *keys, struct ds_error *err)
{
    struct ds_buf text, lines;
    int rc;

    ds_buf_init(&text, DS_MAX_SSH_FILE);
    ds_buf_init(&lines, LINES_BYTES);
    rc = ds_fs_read(file, DS_MAX_SSH_FILE, &text, err);
    if (rc == 0 && text.len > 0 && text.data[text.len - 1] != '\n')
        (void)ds_buf_puts(&lines, "\n");
    for (struct ds_trust_key *key = keys; rc == 0 && key != NULL; key = key->next) {
        if (key->done || !same(key->shown.file, file))
            continue;
        rc = add_key(key, &text, &lines, err);
        key->done = true;
    }
    if (rc == 0 && lines.len > 1)
        rc = ds_fs_write_all(fd, ds_buf_text(&lines), lines.len, err);
    if (rc == 0 && fsync(fd) != 0)
        rc = ds_fail(err, errno, "cannot write '%s': %s", file, strerror(errno));
    ds_buf_release(&text);
    ds_buf_release(&lines);
    return rc;
}

int ds_trust_record(struct ds_trust *trust, struct ds_error *err)
{
    int rc = 0;

    for (struct ds_trust_key *key = trust->keys; rc == 0 && key != NULL; key = key->next) {
        const char *file = key->shown.file;
        int fd;

        if (key->done)
            continue;
        if (file == NULL)
            return ds_fail(err, EINVAL, "~/.ssh/config names no UserKnownHostsFile for '%s'",
                           key->shown.host);
        rc = make_folder(file, err);
        if (rc != 0)
            return rc;
        fd = open_locked(file, err);
        if (fd < 0)
            return fd;
        rc = append(fd, file, key, err);
        (void)close(fd);
    }
    return rc;
}

void ds_trust_release(struct ds_trust *trust)
{
    free(trust->host);
    ds_arena_release(&trust->arena);
    *trust = (struct ds_trust){0};
}
