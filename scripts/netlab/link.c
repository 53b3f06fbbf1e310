// The network of netlab: routes IP packets between TUN devices of network namespaces and treats them badly.
//
// Usage: link SEED MTU   (started by netlab.py; commands on standard input, one answer a line on standard output)
//
// A packet from host A to host B passes three stages: A's cable up, the way from A to B, B's cable down. Each has a rule:
// rate with a queue, delay, jitter, loss, reordering, damage, or a cut. What a rule does to its n-th packet follows from
// the seed, the stage and n alone, so that the same packets suffer the same fate again.
//
// Commands (hosts are numbers from 0, in the order of `attach`; answers are `ok ...` or `error ...`):
//   attach PID ADDRESS4 ADDRESS6   opens the TUN device net0 in the namespace of a process
//   detach HOST                    closes it
//   cable HOST up|down KEY=VALUE...
//   way FROM TO KEY=VALUE...       keys: delay_us jitter_us loss corrupt forge reorder reorder_us rate queue cut
//   nat HOST 0|1                   1 = drops what comes in unasked: TCP SYNs, UDP, pings
//   open HOST FROM PORT            lets SYNs from one host through to a port, in spite of nat
//   shut HOST                      takes back every `open`
//   seed NUMBER                    begins the schedule of all rules anew
//   stats                          packets and bytes carried, and what was dropped why, in JSON
//
// One thread; no allocation a packet: packets live in slots, the delayed ones in a heap by departure time.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { HOSTS = 64, OPENINGS = 8, BATCH = 64, POOL = 256 << 20 };
enum { UP, WAY, DOWN, STAGES };

struct rule {
    uint64_t delay, jitter, reorder_by; // ns
    double loss, corrupt, forge, reorder; // probabilities
    double rate; // bytes a second; 0 = no limit
    double queue; // bytes that may wait for the rate
    bool cut;
    uint64_t count; // packets seen since the seed
    uint64_t free_at, last_out; // ns
};

struct host {
    int tun; // -1 = none
    uint8_t address4[4], address6[16];
    bool nat;
    int openings;
    struct { int from; uint16_t port; } opening[OPENINGS];
    struct rule up, down;
};

struct packet {
    uint64_t at, order; // ns of the next departure; arrival number, so that equal times keep their order
    uint32_t length;
    uint8_t from, to, stage;
};

static struct host hosts[HOSTS];
static int host_count;
static struct rule ways[HOSTS][HOSTS];
static uint64_t seed, arrivals;
static uint32_t slot_size, slot_count, free_count, heap_count;
static uint8_t *pool;
static struct packet *packets;
static uint32_t *free_slots, *heap;
static struct { uint64_t packets, bytes, lost, cut, queue, nat, unroutable, full, corrupted, forged, reordered, refused; } stats;

static uint64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// splitmix64's finalizer.
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static bool happens(double probability, uint64_t draw) { return (double)(draw >> 11) * 0x1p-53 < probability; }

// MARK: Packets

struct parts { uint32_t payload; uint8_t protocol; }; // payload: offset behind the IP header

static struct parts dissect(const uint8_t *p, uint32_t length) {
    if (p[0] >> 4 == 4) return (struct parts){(p[0] & 15u) * 4u, p[9]};
    (void)length;
    return (struct parts){40, p[6]};
}

static int destination(const uint8_t *p, uint32_t length) {
    bool four = length >= 20 && p[0] >> 4 == 4, six = length >= 40 && p[0] >> 4 == 6;
    for (int i = 0; i < host_count && (four || six); i++) {
        if (hosts[i].tun < 0) continue;
        if (four && memcmp(p + 16, hosts[i].address4, 4) == 0) return i;
        if (six && memcmp(p + 24, hosts[i].address6, 16) == 0) return i;
    }
    return -1;
}

static bool is_refused(const struct host *to, int from, const uint8_t *p, uint32_t length) {
    struct parts parts = dissect(p, length);
    const uint8_t *inner = p + parts.payload;
    if (parts.protocol == 6 && length >= parts.payload + 20) {
        if ((inner[13] & 0x12) != 0x02) return false;
        for (int i = 0; i < to->openings; i++)
            if (to->opening[i].from == from && to->opening[i].port == (inner[2] << 8 | inner[3])) return false;
        return true;
    }
    if (parts.protocol == 17) return true;
    return length > parts.payload && ((parts.protocol == 1 && inner[0] == 8) || (parts.protocol == 58 && inner[0] == 128));
}

// Flips a bit behind the IP header: the checksum of TCP or UDP no longer fits.
static void corrupt(uint8_t *p, uint32_t length, uint64_t draw) {
    uint32_t from = dissect(p, length).payload;
    if (from >= length) return;
    p[from + draw % (length - from)] ^= (uint8_t)(1u << (draw >> 40 & 7));
    stats.corrupted++;
}

// Flips a bit of the data of a TCP segment and mends the checksum: only who reads the data can notice.
static void forge(uint8_t *p, uint32_t length, uint64_t draw) {
    struct parts parts = dissect(p, length);
    uint32_t tcp = parts.payload;
    if (parts.protocol != 6 || length < tcp + 20) return;
    uint32_t data = tcp + (p[tcp + 12] >> 4) * 4u;
    if (data >= length) return;
    uint32_t at = data + (uint32_t)(draw % (length - data));
    uint8_t before = p[at];
    p[at] ^= (uint8_t)(1u << (draw >> 40 & 7));
    // RFC 1624: HC' = ~(~HC + ~m + m'), m the byte at its place in a 16-bit word.
    unsigned shift = (at - tcp) % 2 == 0 ? 8 : 0;
    uint32_t sum = (uint16_t)~(p[tcp + 16] << 8 | p[tcp + 17]);
    sum += (uint16_t)~((unsigned)before << shift);
    sum += (unsigned)p[at] << shift;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    p[tcp + 16] = (uint8_t)(~sum >> 8);
    p[tcp + 17] = (uint8_t)~sum;
    stats.forged++;
}

// MARK: The heap

static bool is_earlier(uint32_t a, uint32_t b) {
    return packets[a].at != packets[b].at ? packets[a].at < packets[b].at : packets[a].order < packets[b].order;
}

static void push(uint32_t slot) {
    uint32_t i = heap_count++;
    for (; i > 0 && is_earlier(slot, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = slot;
}

static uint32_t pop(void) {
    uint32_t top = heap[0], last = heap[--heap_count], i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= heap_count) break;
        if (child + 1 < heap_count && is_earlier(heap[child + 1], heap[child])) child++;
        if (!is_earlier(heap[child], last)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

// MARK: The way of a packet

static struct rule *rule_of(const struct packet *k) {
    return k->stage == UP ? &hosts[k->from].up : k->stage == WAY ? &ways[k->from][k->to] : &hosts[k->to].down;
}

static uint64_t name_of(const struct packet *k) {
    return (uint64_t)k->stage << 16 | (uint64_t)(k->stage == DOWN ? 0 : k->from) << 8 | (k->stage == UP ? 0 : k->to);
}

// One stage: moves the packet's time to when it leaves it. False = it was dropped.
static bool pass(uint32_t slot) {
    struct packet *k = &packets[slot];
    struct rule *r = rule_of(k);
    uint8_t *bytes = pool + (size_t)slot * slot_size;
    uint64_t draw = mix(seed ^ mix(name_of(k) << 40 ^ r->count++));
    if (r->cut) return stats.cut++, false;
    if (happens(r->loss, mix(draw ^ 1))) return stats.lost++, false;
    uint64_t out = k->at;
    if (r->rate > 0) {
        uint64_t from = r->free_at > out ? r->free_at : out;
        if ((double)(from - out) * 1e-9 * r->rate > r->queue) return stats.queue++, false;
        out = r->free_at = from + (uint64_t)(k->length / r->rate * 1e9);
    }
    if (happens(r->corrupt, mix(draw ^ 2))) corrupt(bytes, k->length, mix(draw ^ 3));
    if (happens(r->forge, mix(draw ^ 4))) forge(bytes, k->length, mix(draw ^ 5));
    out += r->delay + (r->jitter ? mix(draw ^ 6) % r->jitter : 0);
    if (happens(r->reorder, mix(draw ^ 7))) {
        stats.reordered++;
        out += r->reorder_by;
    } else {
        // Jitter alone keeps the order.
        if (out < r->last_out) out = r->last_out;
        r->last_out = out;
    }
    k->at = out;
    return true;
}

static void deliver(uint32_t slot) {
    struct packet *k = &packets[slot];
    int tun = hosts[k->to].tun;
    if (tun >= 0 && write(tun, pool + (size_t)slot * slot_size, k->length) == (ssize_t)k->length) {
        stats.packets++;
        stats.bytes += k->length;
    } else {
        stats.refused++;
    }
}

// Takes a packet through the stages that it reaches until now.
static void travel(uint32_t slot, uint64_t now) {
    struct packet *k = &packets[slot];
    while (k->at <= now) {
        if (k->stage == STAGES) {
            deliver(slot);
            break;
        }
        if (!pass(slot)) break;
        k->stage++;
    }
    if (k->at > now) push(slot);
    else free_slots[free_count++] = slot;
}

static void receive(int from) {
    for (int i = 0; i < BATCH; i++) {
        static uint8_t scrap[65536];
        bool fits = free_count > 0;
        uint32_t slot = fits ? free_slots[free_count - 1] : 0;
        uint8_t *bytes = fits ? pool + (size_t)slot * slot_size : scrap;
        ssize_t n = read(hosts[from].tun, bytes, fits ? slot_size : sizeof scrap);
        if (n <= 0) return;
        if (!fits) {
            stats.full++;
            continue;
        }
        int to = destination(bytes, (uint32_t)n);
        if (to < 0) {
            stats.unroutable++;
            continue;
        }
        if (hosts[to].nat && is_refused(&hosts[to], from, bytes, (uint32_t)n)) {
            stats.nat++;
            continue;
        }
        free_count--;
        uint64_t now = nanoseconds();
        packets[slot] = (struct packet){.at = now, .order = arrivals++, .length = (uint32_t)n,
            .from = (uint8_t)from, .to = (uint8_t)to, .stage = UP};
        travel(slot, now);
    }
}

// MARK: Commands

static int open_tun(int pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
    int there = open(path, O_RDONLY | O_CLOEXEC), here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int tun = -1;
    if (there >= 0 && here >= 0 && setns(there, CLONE_NEWNET) == 0) {
        struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI, .ifr_name = "net0"};
        tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (tun >= 0 && ioctl(tun, TUNSETIFF, &request) != 0) {
            close(tun);
            tun = -1;
        }
        int problem = errno;
        if (setns(here, CLONE_NEWNET) != 0) abort();
        errno = problem;
    }
    if (there >= 0) close(there);
    if (here >= 0) close(here);
    return tun;
}

static void detach(struct host *h) {
    if (h->tun >= 0) close(h->tun);
    h->tun = -1;
}

static bool set(struct rule *r, char *words) {
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        char *equal = strchr(word, '=');
        if (!equal) return false;
        *equal = 0;
        double value = strtod(equal + 1, NULL);
        if (strcmp(word, "delay_us") == 0) r->delay = (uint64_t)(value * 1000);
        else if (strcmp(word, "jitter_us") == 0) r->jitter = (uint64_t)(value * 1000);
        else if (strcmp(word, "reorder_us") == 0) r->reorder_by = (uint64_t)(value * 1000);
        else if (strcmp(word, "loss") == 0) r->loss = value;
        else if (strcmp(word, "corrupt") == 0) r->corrupt = value;
        else if (strcmp(word, "forge") == 0) r->forge = value;
        else if (strcmp(word, "reorder") == 0) r->reorder = value;
        else if (strcmp(word, "rate") == 0) r->rate = value;
        else if (strcmp(word, "queue") == 0) r->queue = value;
        else if (strcmp(word, "cut") == 0) r->cut = value != 0;
        else return false;
    }
    return true;
}

static void restart(struct rule *r) { r->count = 0; }

static void obey(char *line) {
    int a, b, c, used = 0;
    char four[64], six[64], side[8];
    unsigned long long number;
    if (sscanf(line, "attach %d %63s %63s", &a, four, six) == 3 && host_count < HOSTS) {
        struct host *h = &hosts[host_count];
        *h = (struct host){.tun = open_tun(a)};
        if (h->tun < 0) {
            printf("error cannot open a TUN device: %s\n", strerror(errno));
        } else if (inet_pton(AF_INET, four, h->address4) != 1 || inet_pton(AF_INET6, six, h->address6) != 1) {
            printf("error no addresses: %s %s\n", four, six);
        } else {
            printf("ok %d\n", host_count++);
        }
        return;
    }
    bool is_known = false;
    if (sscanf(line, "detach %d", &a) == 1 && a >= 0 && a < host_count) {
        detach(&hosts[a]);
        is_known = true;
    } else if (sscanf(line, "cable %d %7s %n", &a, side, &used) == 2 && used && a >= 0 && a < host_count) {
        is_known = set(strcmp(side, "up") == 0 ? &hosts[a].up : &hosts[a].down, line + used);
    } else if (sscanf(line, "way %d %d %n", &a, &b, &used) == 2 && used && a >= 0 && b >= 0 && a < HOSTS && b < HOSTS) {
        is_known = set(&ways[a][b], line + used);
    } else if (sscanf(line, "nat %d %d", &a, &b) == 2 && a >= 0 && a < host_count) {
        hosts[a].nat = b != 0;
        is_known = true;
    } else if (sscanf(line, "open %d %d %d", &a, &b, &c) == 3 && a >= 0 && a < host_count && hosts[a].openings < OPENINGS) {
        struct host *h = &hosts[a];
        h->opening[h->openings].from = b;
        h->opening[h->openings++].port = (uint16_t)c;
        is_known = true;
    } else if (sscanf(line, "shut %d", &a) == 1 && a >= 0 && a < host_count) {
        hosts[a].openings = 0;
        is_known = true;
    } else if (sscanf(line, "seed %llu", &number) == 1) {
        seed = number;
        for (int i = 0; i < HOSTS; i++) {
            restart(&hosts[i].up);
            restart(&hosts[i].down);
            for (int j = 0; j < HOSTS; j++) restart(&ways[i][j]);
        }
        is_known = true;
    } else if (strncmp(line, "stats", 5) == 0) {
#define COUNT(name) #name, (unsigned long long)stats.name
        printf("ok {\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,"
               "\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu}\n",
            COUNT(packets), COUNT(bytes), COUNT(lost), COUNT(cut), COUNT(queue), COUNT(nat), COUNT(unroutable), COUNT(full),
            COUNT(corrupted), COUNT(forged), COUNT(reordered), COUNT(refused));
        return;
    }
    printf(is_known ? "ok\n" : "error not understood: %s\n", line);
}

// False at the end of the input.
static bool listen_to_commands(void) {
    static char text[4096];
    static size_t length;
    ssize_t n = read(0, text + length, sizeof text - 1 - length);
    if (n <= 0) return false;
    length += (size_t)n;
    char *end;
    while ((end = memchr(text, '\n', length))) {
        *end = 0;
        obey(text);
        length -= (size_t)(end + 1 - text);
        memmove(text, end + 1, length);
    }
    fflush(stdout);
    return length < sizeof text - 1;
}

int main(int count, char **arguments) {
    if (count != 3) return 64;
    seed = strtoull(arguments[1], NULL, 10);
    slot_size = ((uint32_t)atoi(arguments[2]) + 63u) & ~63u;
    slot_count = POOL / slot_size;
    pool = mmap(NULL, POOL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    packets = calloc(slot_count, sizeof *packets);
    free_slots = calloc(slot_count, sizeof *free_slots);
    heap = calloc(slot_count, sizeof *heap);
    if (pool == MAP_FAILED || !packets || !free_slots || !heap) return 70;
    // Low slots go first, so that a quiet network touches little memory.
    for (free_count = 0; free_count < slot_count; free_count++) free_slots[free_count] = slot_count - 1 - free_count;
    prctl(PR_SET_TIMERSLACK, 1000);
    for (;;) {
        uint64_t now = nanoseconds();
        while (heap_count > 0 && packets[heap[0]].at <= now) travel(pop(), now);
        struct pollfd watched[HOSTS + 1] = {{.fd = 0, .events = POLLIN}};
        for (int i = 0; i < host_count; i++) watched[i + 1] = (struct pollfd){.fd = hosts[i].tun, .events = POLLIN};
        struct timespec wait = {0, 0};
        if (heap_count > 0) {
            now = nanoseconds();
            uint64_t left = packets[heap[0]].at > now ? packets[heap[0]].at - now : 0;
            wait = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
        }
        int hosts_now = host_count;
        if (ppoll(watched, (nfds_t)hosts_now + 1, heap_count > 0 ? &wait : NULL, NULL) < 0 && errno != EINTR) return 70;
        if (watched[0].revents && !listen_to_commands()) return 0;
        for (int i = 0; i < hosts_now; i++) {
            if (hosts[i].tun < 0 || hosts[i].tun != watched[i + 1].fd) continue;
            if (watched[i + 1].revents & POLLIN) receive(i);
            else if (watched[i + 1].revents) detach(&hosts[i]); // its namespace is gone
        }
    }
}
