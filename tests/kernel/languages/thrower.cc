// SPDX-License-Identifier: Apache-2.0
//
// C++ whose exceptions pass through probed functions. Commands on standard input ("throws 1009 503"), one JSON object a line as answer.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <unistd.h>

// Never inlined, cloned or reasoned about: each call in the source is a call in the program.
#define PROBED __attribute__((noipa))

static uint64_t checksum;
static long destroyed;

struct Guard {  // unwinding must run its destructor
    long n;
    explicit Guard(long n) : n(n) {}
    ~Guard() { destroyed++; checksum = checksum * 31 + n; }
};

extern "C" {

PROBED long inner(long n)
{
    Guard guard(n);
    if (n % 3) throw std::runtime_error(std::to_string(n));
    return n * 7;
}

PROBED long outer(long n)
{
    Guard guard(n + 1);
    return inner(n) + 1;
}

PROBED long catcher(long n)
{
    try {
        return outer(n);
    } catch (const std::runtime_error &error) {
        return std::stol(error.what()) * 11;
    }
}

PROBED long descend(long depth, bool throws)
{
    Guard guard(depth);
    if (depth < 2) {
        if (throws) throw depth;
        return 1;
    }
    return 1 + descend(depth - 1, throws);
}

PROBED long rethrower(long n)
{
    try {
        return descend(n, true);
    } catch (long) {
        checksum++;
        throw;
    }
}

}

static void add(long result) { checksum = checksum * 1000003 + result; }

// `thrown` calls in which an exception passes through outer and inner, then `returned` in which none does.
static void run_throws(long thrown, long returned)
{
    for (long i = 0; i < thrown; i++) add(catcher(3 * i + 1));
    for (long i = 0; i < returned; i++) add(catcher(3 * i));
}

// n times `depth` nested calls that an exception unwinds, rethrown on its way; then n times as many that return.
static void run_descend(long n, long depth)
{
    for (long i = 0; i < n; i++) {
        try {
            add(rethrower(depth));
        } catch (long thrown) {
            add(thrown);
        }
        add(descend(depth, false));
    }
}

int main()
{
    char line[128], name[32];
    std::printf("{\"ready\": %d}\n", getpid());
    std::fflush(stdout);
    while (std::fgets(line, sizeof line, stdin)) {
        long n = 0, m = 0;
        if (std::sscanf(line, "%31s %ld %ld", name, &n, &m) < 1) continue;
        checksum = destroyed = 0;
        if (!std::strcmp(name, "throws")) run_throws(n, m);
        if (!std::strcmp(name, "descend")) run_descend(n, m);
        std::printf("{\"checksum\": \"%016lx\", \"destroyed\": %ld}\n", checksum, destroyed);
        std::fflush(stdout);
    }
}
