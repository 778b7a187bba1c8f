/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * one_map.c - threads that stand for processes share not only a file but one mapping of it.
 *
 * ThreadSanitizer knows memory by its address: of two mappings it sees neither a race between them
 * nor what orders them.  Linked with --wrap=mmap and --wrap=munmap: whoever maps a file of which a
 * shared mapping stands gets that one, unless it says where.  It reaches beyond the end of a file
 * that still grows.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { MAPS = 64 };
static const size_t ROOM = (size_t)256 << 20;

struct one_map {
    dev_t device;
    ino_t inode;
    void *base;
    unsigned users; /* 0: a free entry */
};

static struct one_map maps[MAPS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void *__real_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t len);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t len);

static struct one_map *find(const struct stat *file)
{
    struct one_map *free_map = NULL;

    for (size_t i = 0; i < MAPS; i++) {
        if (maps[i].users > 0 && maps[i].device == file->st_dev && maps[i].inode == file->st_ino)
            return &maps[i];
        if (maps[i].users == 0)
            free_map = &maps[i];
    }
    if (free_map == NULL)
        abort();
    *free_map = (struct one_map){.device = file->st_dev, .inode = file->st_ino};
    return free_map;
}

void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
    struct one_map *map;
    struct stat file;

    if (fd < 0 || (flags & MAP_SHARED) == 0 || (flags & MAP_FIXED) != 0 || offset != 0 ||
        fstat(fd, &file) != 0)
        return __real_mmap(at, len, prot, flags, fd, offset);
    if (len > ROOM)
        abort();
    (void)pthread_mutex_lock(&lock);
    map = find(&file);
    if (map->users == 0)
        map->base = __real_mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map->base != MAP_FAILED)
        map->users++;
    at = map->base;
    (void)pthread_mutex_unlock(&lock);
    return at;
}

int __wrap_munmap(void *at, size_t len)
{
    int rc = 0, known = 0;

    (void)pthread_mutex_lock(&lock);
    for (size_t i = 0; i < MAPS && !known; i++) {
        known = maps[i].users > 0 && maps[i].base == at;
        if (known && --maps[i].users == 0)
            rc = __real_munmap(at, ROOM);
    }
    (void)pthread_mutex_unlock(&lock);
    return known ? rc : __real_munmap(at, len);
}
