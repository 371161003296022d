/* The filters that a script can name; the Rust side has the same ones. */

#include <stdlib.h>
#include <string.h>

enum way { WAY_IN, WAY_OUT };
enum filter_kind { F_PASS, F_XOR, F_BLOCK, F_DUP, F_ERR };

static const char *const filter_names[] = {"pass", "xor", "block", "dup", "err"};

static size_t bounded(size_t len, ev_ssize_t limit)
{
	return limit >= 0 && (size_t)limit < len ? (size_t)limit : len;
}

static enum bufferevent_filter_result moved(size_t n)
{
	return n != 0 ? BEV_OK : BEV_NEED_MORE;
}

/* Copies: evbuffer_remove_buffer, called on a part of a chunk, miscounts when the destination's callback drains it. */
static enum bufferevent_filter_result copy(
    struct evbuffer *src, struct evbuffer *dst, size_t n, unsigned char mask)
{
	unsigned char *bytes = malloc(n + 1);
	evbuffer_remove(src, bytes, n);
	for (size_t i = 0; i < n; i++)
		bytes[i] ^= mask;
	evbuffer_add(dst, bytes, n);
	free(bytes);
	return moved(n);
}

/* Whole blocks of four; a rest only when flushing. */
static enum bufferevent_filter_result run_block(
    struct evbuffer *src, struct evbuffer *dst, ev_ssize_t limit, int flushing)
{
	size_t len = evbuffer_get_length(src);
	size_t n = bounded(len, limit) & ~(size_t)3;
	if (n == 0 && len >= 4)
		n = 4;
	if (flushing)
		n = len;
	return copy(src, dst, n, 0);
}

/*
 * Outwards each byte twice, inwards each pair once. With one addition at the end: within it libevent may call the same
 * filter again.
 */
static enum bufferevent_filter_result run_dup(
    struct evbuffer *src, struct evbuffer *dst, ev_ssize_t limit, enum way way)
{
	size_t len = evbuffer_get_length(src), units;
	unsigned char *single, *twice;
	if (way == WAY_OUT) {
		units = limit >= 0 ? bounded(len, limit / 2) : len;
		if (units == 0 && len != 0)
			units = 1;
	} else {
		units = bounded(len / 2, limit);
	}
	single = malloc(3 * units + 1);
	twice = single + units;
	evbuffer_remove(src, way == WAY_OUT ? single : twice, way == WAY_OUT ? units : 2 * units);
	for (size_t i = 0; i < units; i++) {
		if (way == WAY_OUT)
			twice[2 * i] = twice[2 * i + 1] = single[i];
		else
			single[i] = twice[2 * i];
	}
	evbuffer_add(dst, way == WAY_OUT ? twice : single, way == WAY_OUT ? 2 * units : units);
	free(single);
	return moved(units);
}

static enum bufferevent_filter_result filter_any(struct evbuffer *src, struct evbuffer *dst,
    ev_ssize_t limit, enum bufferevent_flush_mode mode, enum filter_kind kind, enum way way)
{
	size_t n = bounded(evbuffer_get_length(src), limit);
	switch (kind) {
	case F_PASS:
		return copy(src, dst, n, 0);
	case F_XOR:
		return copy(src, dst, n, 0x55);
	case F_BLOCK:
		return run_block(src, dst, limit, mode != BEV_NORMAL);
	case F_DUP:
		return run_dup(src, dst, limit, way);
	default:
		return BEV_ERROR;
	}
}

static enum bufferevent_filter_result filter_in(struct evbuffer *src, struct evbuffer *dst,
    ev_ssize_t limit, enum bufferevent_flush_mode mode, void *ctx)
{
	return filter_any(src, dst, limit, mode, *(enum filter_kind *)ctx, WAY_IN);
}

static enum bufferevent_filter_result filter_out(struct evbuffer *src, struct evbuffer *dst,
    ev_ssize_t limit, enum bufferevent_flush_mode mode, void *ctx)
{
	return filter_any(src, dst, limit, mode, *(enum filter_kind *)ctx, WAY_OUT);
}
