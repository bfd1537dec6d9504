/* One pool of threads a process and library; the calling thread is the first of each call. */

#include "vectors.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define CALLS_ALONE 40
#define LOST_SECONDS 0.02
#define STACK_BYTES (4 << 20) /* of a thread: some work lays out rows there, and some systems give 512 KiB */

typedef void Work(int thread, int threads, void *what);
typedef struct { atomic_int arrived, round; } Barrier;

static struct {
    pthread_mutex_t calls, sleep;
    pthread_cond_t wake;
    atomic_uint number; /* of calls so far */
    atomic_int asleep, done;
    Work *work;
    void *what;
    int threads, workers, calls_alone;
    double lost; /* seconds by which calls together took longer than one thread alone would have */
} pool = {.calls = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static _Thread_local double waited; /* seconds, but for short waits */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

INLINE void wait_a_moment(int turn) { /* soon another thread may have the core: it may be the one waited for */
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (turn > 200) sched_yield();
}

static void wait_while(atomic_int *value, int old) {
    double since = 0.0;
    for (int turn = 0; atomic_load(value) == old; turn++) {
        if (turn == 200) since = now();
        wait_a_moment(turn);
    }
    if (since > 0.0) waited += now() - since;
}

static void meet(Barrier *barrier, int threads) {
    const int round = atomic_load(&barrier->round);
    if (atomic_fetch_add(&barrier->arrived, 1) < threads - 1) {
        wait_while(&barrier->round, round);
        return;
    }
    atomic_store(&barrier->arrived, 0);
    atomic_store(&barrier->round, round + 1);
}

static void *worker(void *start) {
    const int thread = (int)((uintptr_t)start & 0xffff);
    unsigned seen = (unsigned)((uintptr_t)start >> 16);
    for (;;) {
        for (int turn = 0; turn < 200 && atomic_load(&pool.number) == seen; turn++) wait_a_moment(turn);
        if (atomic_load(&pool.number) == seen) {
            pthread_mutex_lock(&pool.sleep);
            atomic_fetch_add(&pool.asleep, 1);
            while (atomic_load(&pool.number) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
            atomic_fetch_sub(&pool.asleep, 1);
            pthread_mutex_unlock(&pool.sleep);
        }
        seen++; /* a call ends when all workers have seen it, so none is left out */
        if (thread < pool.threads) pool.work(thread, pool.threads, pool.what);
        atomic_fetch_add(&pool.done, 1);
    }
    return NULL;
}

/* Threads do not follow into a forked process, and who held a lock there is gone. */
static void begin_anew(void) {
    pthread_mutex_init(&pool.calls, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    atomic_store(&pool.number, 0), atomic_store(&pool.asleep, 0);
    pool.workers = pool.calls_alone = 0, pool.lost = 0.0;
}

__attribute__((constructor)) static void when_loaded(void) { pthread_atfork(NULL, NULL, begin_anew); }

static int start_worker(int thread, unsigned calls) { /* it is told its number, and how many calls were before it */
    pthread_attr_t attributes;
    pthread_t made;
    if (pthread_attr_init(&attributes) != 0) return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    const int failed = pthread_create(&made, &attributes, worker, (void *)((uintptr_t)thread | (uintptr_t)calls << 16));
    pthread_attr_destroy(&attributes);
    return !failed;
}

/* Have `threads` do the work together. Where other programs hold the cores they wait for one another longer than one
   alone would take: then one alone does the next calls. A call that begins threads, or wakes them, loses little. */
static void run_on(int threads, Work *work, void *what) {
    if (threads <= 1) {
        work(0, 1, what);
        return;
    }
    pthread_mutex_lock(&pool.calls);
    while (pool.workers < threads - 1 && start_worker(pool.workers + 1, atomic_load(&pool.number))) pool.workers++;
    pool.threads = threads < pool.workers + 1 ? threads : pool.workers + 1;
    pool.work = work, pool.what = what;
    if (pool.threads == 1 || pool.calls_alone > 0) {
        pool.calls_alone -= pool.calls_alone > 0;
        work(0, 1, what);
        pthread_mutex_unlock(&pool.calls);
        return;
    }
    const double began = now();
    waited = 0.0;
    atomic_store(&pool.done, 0);
    atomic_fetch_add(&pool.number, 1);
    if (atomic_load(&pool.asleep) > 0) {
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
    work(0, pool.threads, what);
    for (int done; (done = atomic_load(&pool.done)) < pool.workers;) wait_while(&pool.done, done);
    const double took = now() - began;
    pool.lost += waited - took * (pool.threads - 1) / pool.threads;
    if (pool.lost < 0.0) pool.lost = 0.0;
    if (pool.lost > LOST_SECONDS) pool.calls_alone = CALLS_ALONE, pool.lost = 0.0;
    pthread_mutex_unlock(&pool.calls);
}

/* Where a thread's part of so many outputs begins. */
INLINE size_t share(size_t total, int thread, int threads) {
    return thread == threads ? total : total * thread / threads / LANES * LANES;
}

