#!/usr/bin/env python3
"""How often a member of an all-reduce takes memory in each operation: counted by a malloc in front of the system's.

    allocations.py PATH/TO/coord-bench [--bytes 4096,1048576] [--ways tcp,shm,sealed]

Two members; the first has the counter. The figure is the difference between 1000 and 11 000 operations, by 10 000: what is taken once
does not count. Needs cc.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

COUNTER = r"""
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
static atomic_ulong count;
void *malloc(size_t size) { count++; return __libc_malloc(size); }
void *calloc(size_t n, size_t size) { count++; return __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { count++; return __libc_realloc(old, size); }
void *aligned_alloc(size_t alignment, size_t size) { count++; return __libc_memalign(alignment, size); }
int posix_memalign(void **place, size_t alignment, size_t size) {
    count++;
    *place = __libc_memalign(alignment, size);
    return *place ? 0 : 12;
}
__attribute__((destructor)) static void tell(void) {
    FILE *file = fopen(getenv("COUNT_FILE"), "w");
    if (file) fprintf(file, "%lu\n", (unsigned long)count), fclose(file);
}
"""


def run(bench, way, size, count, folder):
    """Allocations of member 0 in its life."""
    counted = {**os.environ, "LD_PRELOAD": f"{folder}/counter.so", "COUNT_FILE": f"{folder}/count"}
    members = [
        subprocess.Popen([bench, "allreduce", str(rank), "2", way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env=counted if rank == 0 else None) for rank in range(2)]
    own = [member.stdout.readline().split() for member in members]
    lines = " ".join([a for a, _ in own] + [b for _, b in own]) + f"\nrepeat {size} {count}\n"
    for member in members:
        member.stdin.write(lines)
        member.stdin.flush()
    for member in members:
        if member.stdout.readline().split() != [str(count)]:
            sys.exit(f"{way} failed at {size} bytes")
    for member in members:
        member.stdin.close()
        member.wait(timeout=20)
    return int(pathlib.Path(folder, "count").read_text())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("--bytes", default="4096,1048576")
    parser.add_argument("--ways", default="tcp,shm,sealed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "counter.c").write_text(COUNTER)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", f"{folder}/counter.so", f"{folder}/counter.c"], check=True)
        for way in options.ways.split(","):
            for size in options.bytes.split(","):
                few, many = (run(options.bench, way, size, count, folder) for count in (1000, 11000))
                print(f"{way} {size} bytes: {(many - few) / 10000:.2f} allocations an operation", flush=True)


if __name__ == "__main__":
    main()
