/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_link.c - one connection up to its host key; the steps are described in ssh.h.
 *
 * libssh2 offers by default what it should not (SHA-1, CBC, DSS); the lists below are what is
 * offered here.  The types of host keys offered are those that the known_hosts files have for the
 * host, so that the server shows a key that can be compared.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "launcher/remote/ssh.h"

#define KEX                                                                                        \
    "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,"        \
    "ecdh-sha2-nistp521,diffie-hellman-group16-sha512,diffie-hellman-group18-sha512,"              \
    "diffie-hellman-group14-sha256,diffie-hellman-group-exchange-sha256"
#define CRYPT "aes128-ctr,aes256-ctr,aes192-ctr"
#define MAC   "hmac-sha2-256,hmac-sha2-512"

static const char *const host_key_types[] = {"ssh-ed25519", "ecdsa-sha2-nistp256",
                                             "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"};

enum { KEY_TYPES = sizeof(host_key_types) / sizeof(host_key_types[0]) };

/* --- the address ------------------------------------------------------------------------------ */

static void on_names(void *user)
{
    struct ds_ssh *ssh = user;

    for (struct ds_ssh_link *link = ssh->links; link != NULL; link = link->next)
        if (link->phase == DS_SSH_RESOLVE)
            ds__ssh_drive(link);
}

static int ask_address(struct ds_ssh_link *link, struct ds_error *err)
{
    struct ds_ssh *ssh = link->ssh;
    const struct ds_names_args args = {.loop = ssh->base.args.loop,
                                       .done = on_names,
                                       .user = ssh,
                                       .nsswitch = "/etc/nsswitch.conf",
                                       .hosts = "/etc/hosts",
                                       .look = getaddrinfo};
    int rc = ssh->names == NULL ? ds_names_open(&ssh->names, &args, err) : 0;

    return rc != 0 ? rc
                   : ds_names_ask(ssh->names, link->target->address, link->target->port,
                                  &link->name, err);
}

int ds__ssh_resolve(struct ds_ssh_link *link, struct ds_error *err)
{
    int rc = link->name == NULL ? ask_address(link, err) : 0;

    if (rc != 0)
        return rc;
    if (!ds_names_answer(link->ssh->names, link->name, &rc, &link->address))
        return 0;
    if (rc != 0)
        return ds_fail(err, EHOSTUNREACH, "no address for '%s': %s", link->target->address,
                       gai_strerror(rc));
    ds__ssh_enter(link, DS_SSH_CONNECT);
    return 1;
}

/* --- the socket ------------------------------------------------------------------------------- */

static void on_socket(struct ds_watch *watch, uint32_t events)
{
    struct ds_ssh_link *link = watch->user;

    (void)events;
    link->dry = false;
    ds__ssh_drive(link);
}

static void close_socket(struct ds_ssh_link *link)
{
    ds_loop_remove(link->ssh->base.args.loop, &link->watch);
    if (link->fd >= 0)
        (void)close(link->fd);
    link->fd = -1;
}

/* Begin with the next address.  0, or why that cannot be. */
static int begin_connect(struct ds_ssh_link *link)
{
    const struct addrinfo *to = link->address;
    const int on = 1;

    link->fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (link->fd < 0)
        return errno;
    (void)setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, (socklen_t)sizeof(on));
    (void)setsockopt(link->fd, SOL_SOCKET, SO_KEEPALIVE, &on, (socklen_t)sizeof(on));
    if (connect(link->fd, to->ai_addr, to->ai_addrlen) != 0 && errno != EINPROGRESS)
        return errno;
    link->watch = (struct ds_watch){.fd = -1, .ready = on_socket, .user = link};
    return -ds_loop_add(link->ssh->base.args.loop, &link->watch, link->fd, EPOLLOUT, NULL);
}

/* A direct-tcpip channel of the host before instead of a socket. */
static int open_tunnel(struct ds_ssh_link *link, struct ds_error *err)
{
    struct ds_ssh_link *via = link->via;

    if (via->phase == DS_SSH_GONE)
        return ds_fail(err, EHOSTUNREACH, "the host before it, '%s', cannot be reached",
                       via->target->name);
    if (via->phase < DS_SSH_READY || (via->opener != NULL && via->opener != link))
        return 0;
    if (link->tunnel == NULL)
        link->tunnel = libssh2_channel_direct_tcpip_ex(via->session, link->target->address,
                                                       (int)link->target->port, "127.0.0.1", 22);
    ds__ssh_listen(via);
    if (link->tunnel == NULL) {
        if (libssh2_session_last_errno(via->session) == LIBSSH2_ERROR_EAGAIN) {
            via->opener = link;
            return 0;
        }
        via->opener = NULL;
        return ds_fail(err, EHOSTUNREACH, "'%s' does not connect to '%s' port %u: %s",
                       via->target->name, link->target->address, link->target->port,
                       ds__ssh_text(via));
    }
    via->opener = NULL;
    ds__ssh_enter(link, DS_SSH_HANDSHAKE);
    return 1;
}

int ds__ssh_connect(struct ds_ssh_link *link, struct ds_error *err)
{
    int code = 0;
    socklen_t len = sizeof(code);

    if (link->via != NULL)
        return open_tunnel(link, err);
    if (link->fd >= 0) {
        struct sockaddr_storage peer;
        socklen_t peer_len = sizeof(peer);

        if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &code, &len) != 0)
            code = errno;
        if (code == 0 && getpeername(link->fd, (struct sockaddr *)&peer, &peer_len) == 0) {
            ds__ssh_enter(link, DS_SSH_HANDSHAKE);
            return 1;
        }
        if (code == 0)
            return 0;
        close_socket(link);
        link->address = link->address->ai_next;
    }
    while (link->address != NULL) {
        code = begin_connect(link);
        if (code == 0)
            return 0;
        close_socket(link);
        link->address = link->address->ai_next;
    }
    return ds_fail(err, EHOSTUNREACH, "cannot connect to '%s' port %u: %s", link->target->address,
                   link->target->port, strerror(code));
}

/* --- the session ------------------------------------------------------------------------------ */

const char *ds__ssh_text(const struct ds_ssh_link *link)
{
    char *text = NULL;

    if (link->session == NULL || libssh2_session_last_error(link->session, &text, NULL, 0) == 0 ||
        text == NULL)
        return "no reason given";
    return text;
}

/* libssh2 asks for the greeting byte by byte, and again and again of a socket that is empty. */
static LIBSSH2_RECV_FUNC(socket_recv)
{
    struct ds_ssh_link *link = *abstract;
    bool few = length < sizeof(link->ahead);
    size_t room = few ? sizeof(link->ahead) : length, take = link->ahead_len - link->ahead_at;
    ssize_t n;

    if (link->cut)
        return 0;
    if (take == 0 && link->dry)
        return -EAGAIN;
    if (take == 0) {
        n = recv(socket, few ? link->ahead : buffer, room, flags);
        link->dry = n < 0 ? errno == EAGAIN : n > 0 && (size_t)n < room;
        if (n <= 0 || !few)
            return n < 0 ? -errno : n;
        link->ahead_at = 0;
        link->ahead_len = (unsigned)n;
        take = (size_t)n;
    }
    take = take < length ? take : length;
    memcpy(buffer, link->ahead + link->ahead_at, take);
    link->ahead_at += (unsigned)take;
    return (ssize_t)take;
}

static LIBSSH2_RECV_FUNC(tunnel_recv)
{
    struct ds_ssh_link *link = *abstract;
    ssize_t n;

    (void)socket;
    (void)flags;
    if (link->cut || link->tunnel == NULL || link->via->cut)
        return 0;
    n = libssh2_channel_read(link->tunnel, buffer, length);
    if (n == LIBSSH2_ERROR_EAGAIN || n == LIBSSH2_ERROR_BAD_USE) /* a half-sent packet is before */
        return -EAGAIN;
    if (n == 0 && libssh2_channel_eof(link->tunnel) == 0)
        return -EAGAIN;
    return n < 0 ? -ECONNRESET : n;
}

/* A packet that was sent in part must be finished before another begins: libssh2 leaves that to
 * whoever uses two channels of a session. */
static LIBSSH2_SEND_FUNC(tunnel_send)
{
    struct ds_ssh_link *link = *abstract;
    bool half;
    ssize_t n;

    (void)socket;
    (void)flags;
    if (link->cut || link->tunnel == NULL || link->via->cut)
        return -EPIPE;
    if (link->via->writer != NULL && link->via->writer != link)
        return -EAGAIN;
    n = libssh2_channel_write(link->tunnel, buffer, length);
    half = n == LIBSSH2_ERROR_EAGAIN && (libssh2_session_block_directions(link->via->session) &
                                         LIBSSH2_SESSION_BLOCK_OUTBOUND) != 0;
    link->via->writer = half ? link : NULL;
    return n == LIBSSH2_ERROR_EAGAIN || n == 0 ? -EAGAIN : n < 0 ? -EPIPE : n;
}

/* libssh2 takes a function of any type and calls it as the right one. */
static void set_callback(LIBSSH2_SESSION *session, int which, void (*function)(void))
{
    void *pointer;

    memcpy(&pointer, &function, sizeof(pointer));
    (void)libssh2_session_callback_set(session, which, pointer);
}

/* The types of keys this host is known by, those libssh2 can check. */
static void list_types(const struct ds_known *known, char out[256])
{
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0; i < KEY_TYPES; i++)
        if (ds_known_has(known, host_key_types[i]))
            used += (size_t)snprintf(out + used, 256 - used, "%s%s", used == 0 ? "" : ",",
                                     host_key_types[i]);
}

static int check_known(struct ds_ssh_link *link, const char *types, struct ds_error *err)
{
    bool authority = false, rsa = false;

    for (size_t i = 0; i < link->known->entries; i++) {
        authority = authority || link->known->entry[i].mark == DS_KNOWN_AUTHORITY;
        rsa = rsa ||
              (link->known->entry[i].mark == DS_KNOWN_KEY && link->known->entry[i].type_len == 7);
    }
    if (types[0] != '\0')
        return 0;
    if (authority)
        return ds_fail(err, EKEYREJECTED,
                       "its key is trusted by certificate (@cert-authority) only, which needs "
                       "--via openssh");
    if (rsa)
        return ds_fail(err, EKEYREJECTED,
                       "it is known by an RSA key only, which needs --via openssh");
    return 0; /* unknown: any type, so that the key can be shown */
}

static int begin_session(struct ds_ssh_link *link, struct ds_error *err)
{
    char types[256];
    int rc;

    link->known = malloc(sizeof(*link->known));
    if (link->known == NULL)
        return ds_fail(err, ENOMEM, "no memory for host keys");
    rc = ds_ssh_site_known(&link->ssh->site, link->target, link->known, err);
    if (rc != 0)
        return rc;
    list_types(link->known, types);
    rc = check_known(link, types, err);
    if (rc != 0)
        return rc;
    link->session = libssh2_session_init_ex(NULL, NULL, NULL, link);
    if (link->session == NULL)
        return ds_fail(err, ENOMEM, "no memory for an SSH session");
    libssh2_session_set_blocking(link->session, 0);
    link->ahead_at = link->ahead_len = 0;
    link->dry = false;
    set_callback(link->session, LIBSSH2_CALLBACK_RECV,
                 link->via != NULL ? (void (*)(void))tunnel_recv : (void (*)(void))socket_recv);
    if (link->via != NULL)
        set_callback(link->session, LIBSSH2_CALLBACK_SEND, (void (*)(void))tunnel_send);
    if (types[0] == '\0')
        (void)snprintf(types, sizeof(types), "%s,%s,%s,%s", host_key_types[0], host_key_types[1],
                       host_key_types[2], host_key_types[3]);
    if (libssh2_session_method_pref(link->session, LIBSSH2_METHOD_HOSTKEY, types) != 0 ||
        libssh2_session_method_pref(link->session, LIBSSH2_METHOD_KEX, KEX) != 0 ||
        libssh2_session_method_pref(link->session, LIBSSH2_METHOD_CRYPT_CS, CRYPT) != 0 ||
        libssh2_session_method_pref(link->session, LIBSSH2_METHOD_CRYPT_SC, CRYPT) != 0 ||
        libssh2_session_method_pref(link->session, LIBSSH2_METHOD_MAC_CS, MAC) != 0 ||
        libssh2_session_method_pref(link->session, LIBSSH2_METHOD_MAC_SC, MAC) != 0)
        return ds_fail(err, ENOTSUP, "libssh2 lacks an algorithm: %s", ds__ssh_text(link));
    return 0;
}

static int judge(const struct ds_ssh_link *link, enum ds_known_answer answer,
                 const struct ds_known_entry *entry, const char *type, const char *print,
                 struct ds_error *err)
{
    const char *file = entry != NULL ? entry->file : "";
    unsigned line = entry != NULL ? entry->line : 0;

    switch (answer) {
    case DS_KNOWN_TRUSTED: return 0;
    case DS_KNOWN_IS_REVOKED:
        return ds_fail(err, EKEYREJECTED, "its key %s is revoked (%s:%u)", print, file, line);
    case DS_KNOWN_CHANGED:
        return ds_fail(err, EKEYREJECTED,
                       "its key has CHANGED: it shows %s %s, %s:%u has another; somebody may be in "
                       "between",
                       type, print, file, line);
    case DS_KNOWN_CA_ONLY:
        return ds_fail(err, EKEYREJECTED,
                       "its key is trusted by certificate (@cert-authority) only, which needs "
                       "--via openssh");
    case DS_KNOWN_OTHER_TYPE:
        return ds_fail(err, EKEYREJECTED,
                       "it shows %s %s, but is known by another type of key (%s:%u), which needs "
                       "--via openssh",
                       type, print, file, line);
    case DS_KNOWN_UNKNOWN: break;
    }
    return ds_fail(err, EKEYREJECTED,
                   "its key is not known: %s %s for '%s'; see `dsrun hosts trust`", type, print,
                   link->target->key_name);
}

static int show_key(const struct ds_ssh_link *link, const void *blob, size_t len,
                    struct ds_error *err)
{
    const struct ds_transport_args *args = &link->ssh->base.args;
    struct sockaddr_storage peer = {0};
    socklen_t peer_len = sizeof(peer);
    char address[NI_MAXHOST];
    struct ds_shown_key key = {.host = link->target->name,
                               .address = link->target->address,
                               .name = link->target->key_name,
                               .file = link->target->known_own,
                               .blob = blob,
                               .len = len};

    if (link->fd >= 0 && getpeername(link->fd, (struct sockaddr *)&peer, &peer_len) == 0 &&
        getnameinfo((struct sockaddr *)&peer, peer_len, address, sizeof(address), NULL, 0,
                    NI_NUMERICHOST) == 0)
        key.address = address;
    args->key(args->key_user, &key);
    return ds_fail(err, ENOKEY, "its key is not known yet");
}

static int check_key(struct ds_ssh_link *link, struct ds_error *err)
{
    const struct ds_transport_args *args = &link->ssh->base.args;
    const struct ds_known_entry *entry;
    enum ds_known_answer answer;
    char type[64], print[64];
    size_t len = 0;
    int kind;
    const char *blob = libssh2_session_hostkey(link->session, &len, &kind);
    int rc;

    if (blob == NULL || len == 0 || len > DS_MAX_KEY_BYTES)
        return ds_fail(err, EPROTO, "it shows no key");
    ds_key_type(type, blob, len);
    ds_key_fingerprint(print, blob, len);
    answer = ds_known_check(link->known, blob, len, &entry);
    rc = judge(link, answer, entry, type, print, err);
    if (args->key != NULL && answer == DS_KNOWN_UNKNOWN)
        rc = show_key(link, blob, len, err);
    else if (args->key != NULL && rc == 0 && link->remote != NULL)
        rc = ds_fail(err, EALREADY, "its key is known");
    free(link->known);
    link->known = NULL;
    return rc;
}

int ds__ssh_handshake(struct ds_ssh_link *link, struct ds_error *err)
{
    const struct ds_ssh_link *root = link;
    int rc = link->session == NULL ? begin_session(link, err) : 0;

    if (rc != 0)
        return rc;
    while (root->via != NULL)
        root = root->via;
    rc = libssh2_session_handshake(link->session, root->fd);
    if (rc == LIBSSH2_ERROR_EAGAIN)
        return 0;
    if (rc == LIBSSH2_ERROR_BANNER_RECV || rc == LIBSSH2_ERROR_SOCKET_RECV ||
        rc == LIBSSH2_ERROR_SOCKET_DISCONNECT || rc == LIBSSH2_ERROR_SOCKET_SEND ||
        rc == LIBSSH2_ERROR_BANNER_SEND)
        return ds_fail(err, ECONNRESET, "its sshd closed the connection while greeting");
    if (rc == LIBSSH2_ERROR_KEX_FAILURE || rc == LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE)
        return ds_fail(err, EHOSTUNREACH,
                       "no algorithm in common, or its key is of a type that libssh2 cannot check "
                       "(%s); --via openssh may do",
                       ds__ssh_text(link));
    if (rc != 0)
        return ds_fail(err, EHOSTUNREACH, "the handshake failed: %s", ds__ssh_text(link));
    rc = check_key(link, err);
    if (rc != 0)
        return rc;
    ds__ssh_enter(link, DS_SSH_AUTH);
    return 1;
}
