/* The same loops as src/cases.rs, on libevent's evbuffer. Each returns the nanoseconds that its
 * timed part took. */
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Time that this thread has had on a processor: what others take from it does not count. */
static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t peer_now(void)
{
	return now();
}

/* The caller's memory, the same for both sides: 1 MiB each. */
static const char *source;
static char *sink;

void peer_use(const char *from, char *to)
{
	source = from;
	sink = to;
}

const char *peer_version(void)
{
	return event_get_version();
}

uint64_t peer_add_remove(size_t size, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		evbuffer_add(b, source, size);
		evbuffer_remove(b, sink, size);
	}
	uint64_t end = now();
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_burst(size_t size, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		for (int j = 0; j < 64; j++)
			evbuffer_add(b, source, size);
		evbuffer_drain(b, size * 64);
	}
	uint64_t end = now();
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_readln(size_t line, size_t rounds)
{
	uint64_t spent = 0;
	char *text = malloc(1 << 20);
	memset(text, 'x', 1 << 20);
	for (size_t at = line - 1; at < 1 << 20; at += line)
		text[at] = '\n';
	for (size_t i = 0; i < rounds; i++) {
		struct evbuffer *b = evbuffer_new();
		evbuffer_add(b, text, (1 << 20) / line * line);
		uint64_t start = now();
		char *got;
		while ((got = evbuffer_readln(b, NULL, EVBUFFER_EOL_LF)) != NULL)
			free(got);
		spent += now() - start;
		evbuffer_free(b);
	}
	free(text);
	return spent;
}

/* `segments` pieces of 1 KiB; the pattern lies over the last border. */
uint64_t peer_search(size_t segments, size_t rounds)
{
	static char piece[1024], before[1024], after[1024];
	memset(piece, 'a', sizeof piece);
	memset(before, 'a', sizeof before);
	memset(after, 'a', sizeof after);
	memcpy(before + sizeof before - 4, "need", 4);
	memcpy(after, "le-in-hay", 9);
	struct evbuffer *b = evbuffer_new();
	for (size_t i = 0; i + 2 < segments; i++)
		evbuffer_add_reference(b, piece, sizeof piece, NULL, NULL);
	evbuffer_add_reference(b, before, sizeof before, NULL, NULL);
	evbuffer_add_reference(b, after, sizeof after, NULL, NULL);
	uint64_t start = now();
	size_t found = 0;
	for (size_t i = 0; i < rounds; i++)
		found += (size_t)evbuffer_search(b, "needle-in-hay", 13, NULL).pos;
	uint64_t end = now();
	if (found != rounds * ((segments - 1) * 1024 - 4))
		abort();
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_move(size_t segments, size_t rounds)
{
	struct evbuffer *a = evbuffer_new(), *b = evbuffer_new();
	for (size_t i = 0; i < segments; i++)
		evbuffer_add_reference(a, source, 100, NULL, NULL);
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		evbuffer_add_buffer(b, a);
		evbuffer_add_buffer(a, b);
	}
	uint64_t end = now();
	evbuffer_free(a);
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_reference(size_t size, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		evbuffer_add_reference(b, source, size, NULL, NULL);
		evbuffer_drain(b, size);
	}
	uint64_t end = now();
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_prepend(size_t size, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	evbuffer_add(b, source, 100);
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		evbuffer_prepend(b, source, size);
		evbuffer_drain(b, size);
	}
	uint64_t end = now();
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_pullup(size_t segments, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		for (size_t j = 0; j < segments; j++)
			evbuffer_add_reference(b, source, 1024, NULL, NULL);
		evbuffer_pullup(b, -1);
		evbuffer_drain(b, segments * 1024);
	}
	uint64_t end = now();
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_copyout(size_t size, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	for (size_t i = 0; i < 64; i++)
		evbuffer_add_reference(b, source, 1024, NULL, NULL);
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++)
		evbuffer_copyout(b, sink, size);
	uint64_t end = now();
	evbuffer_free(b);
	return end - start;
}

/* Moves `size` bytes at a time from one buffer to the other. */
uint64_t peer_remove_buffer(size_t size, size_t rounds)
{
	struct evbuffer *a = evbuffer_new(), *b = evbuffer_new();
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		for (size_t j = 0; j < 16; j++)
			evbuffer_add_reference(a, source, 4096, NULL, NULL);
		while (evbuffer_get_length(a))
			evbuffer_remove_buffer(a, b, size);
		evbuffer_drain(b, 16 * 4096);
	}
	uint64_t end = now();
	evbuffer_free(a);
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_reserve(size_t size, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		struct evbuffer_iovec v;
		evbuffer_reserve_space(b, (ev_ssize_t)size, &v, 1);
		v.iov_len = size;
		evbuffer_commit_space(b, &v, 1);
		evbuffer_drain(b, size);
	}
	uint64_t end = now();
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_peek(size_t segments, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	struct evbuffer_iovec v[64];
	for (size_t i = 0; i < segments; i++)
		evbuffer_add_reference(b, source, 1024, NULL, NULL);
	uint64_t start = now();
	size_t seen = 0;
	for (size_t i = 0; i < rounds; i++)
		seen += (size_t)evbuffer_peek(b, -1, NULL, v, 64);
	uint64_t end = now();
	if (seen != rounds * segments)
		abort();
	evbuffer_free(b);
	return end - start;
}

uint64_t peer_new_free(size_t size, size_t rounds)
{
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		struct evbuffer *b = evbuffer_new();
		evbuffer_add(b, source, size);
		evbuffer_free(b);
	}
	return now() - start;
}

uint64_t peer_add_fmt(size_t size, size_t rounds)
{
	struct evbuffer *b = evbuffer_new();
	uint64_t start = now();
	for (size_t i = 0; i < rounds; i++) {
		evbuffer_add_printf(b, "%zu:%s", i, "text");
		evbuffer_drain(b, 64);
	}
	uint64_t end = now();
	(void)size;
	evbuffer_free(b);
	return end - start;
}
