/* Views of the caller's arrays, with a part for each sequence; conversion between rows and vectors. */
#ifndef SRWM_VIEWS_H
#define SRWM_VIEWS_H

#include "halves.h"
#include "lanes.h"

/* The part of an array for each sequence: its start, and the strides of the last two axes in bytes. The flags
   of resets may have a mask: resets at padding are none. */
typedef struct View View;
struct View {
    char *data[SEQUENCES_AT_MOST];
    ptrdiff_t outer, inner;
    int kind;
    const View *mask;
};

/* Whether all sequences share this part, as when a layer's batch begins with one W. */
INLINE int is_shared(const View *a) {
    for (ptrdiff_t i = 1; i < SEQUENCES; i++)
        if (a->data[i] != a->data[0]) return 0;
    return 1;
}

/* Whether a row is contiguous, of type `real`. */
INLINE int is_dense(const View *a) { return a->inner == (ptrdiff_t)sizeof(real) && a->kind == REAL; }

/* `n` entries of one row, at most as many as a vector has; the other lanes are zero. */
static vector gather_some(const char *p, ptrdiff_t inner, ptrdiff_t n, int kind) {
    real entries[VECTOR_BYTES / sizeof(real)] = {0};
    for (ptrdiff_t i = 0; i < n; i++) entries[i] = read_entry(p + i * inner, kind);
    return load(entries);
}

static void scatter_some(char *p, ptrdiff_t inner, ptrdiff_t n, int kind, vector v) {
    real entries[VECTOR_BYTES / sizeof(real)];
    store(entries, v);
    for (ptrdiff_t i = 0; i < n; i++) write_entry(p + i * inner, kind, entries[i]);
}

/* One vector for each sequence: n entries of its row, from byte `at` on. */
INLINE void read_block(vector *block, const View *a, ptrdiff_t at, ptrdiff_t n) {
    if (is_dense(a) && n == LANES)
        UNROLL for (ptrdiff_t s = 0; s < SEQUENCES; s++) block[s] = load(a->data[s] + at);
    else if (is_dense(a))
        UNROLL for (ptrdiff_t s = 0; s < SEQUENCES; s++)
            block[s] = load_some(a->data[s] + at, n);
    else
        for (ptrdiff_t s = 0; s < SEQUENCES; s++)
            block[s] = gather_some(a->data[s] + at, a->inner, n, a->kind);
}

INLINE void write_block(const View *a, ptrdiff_t at, const vector *block, ptrdiff_t n) {
    if (is_dense(a) && n == LANES)
        UNROLL for (ptrdiff_t s = 0; s < SEQUENCES; s++) store(a->data[s] + at, block[s]);
    else if (is_dense(a))
        UNROLL for (ptrdiff_t s = 0; s < SEQUENCES; s++) store_some(a->data[s] + at, block[s], n);
    else
        for (ptrdiff_t s = 0; s < SEQUENCES; s++)
            scatter_some(a->data[s] + at, a->inner, n, a->kind, block[s]);
}

/* Loads `columns` as one vector for each sequence; entries from n on are zero. */
INLINE void load_block(vector *block, const real *columns, ptrdiff_t n) {
#ifdef SRWM_MANY
    if (n == LANES)
        UNROLL for (ptrdiff_t j = 0; j < LANES; j++) block[j] = load(columns + j * LANES);
    else
        for (ptrdiff_t j = 0; j < LANES; j++) block[j] = j < n ? load(columns + j * LANES) : splat(0);
    transpose_lanes(block);
#else
    (void)n; /* the columns are padded with zeros */
    block[0] = load(columns);
#endif
}

/* IN: the n entries of a row, `at` bytes into the view; zeros if there is no array -> OUT: n columns,
   padded. */
static void read_row(real *columns, const View *a, ptrdiff_t at, ptrdiff_t n) {
    if (a->data[0] == NULL) {
        if (n > 0) memset(columns, 0, (size_t)(vectors_for(n) * LANES) * sizeof(real));
        return;
    }
#ifndef SRWM_MANY
    if (is_dense(a)) {
        const char *row = a->data[0] + at;
        for (; n >= LANES; n -= LANES, row += VECTOR_BYTES, columns += LANES) store(columns, load(row));
        if (n > 0) store(columns, load_some(row, n));
        return;
    }
#endif
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        ptrdiff_t some = n - i < LANES ? n - i : LANES;
        vector block[VECTOR_BYTES / sizeof(real)];
        read_block(block, a, at + i * a->inner, some);
#ifdef SRWM_MANY
        transpose_lanes(block);
        if (some == LANES)
            UNROLL for (ptrdiff_t j = 0; j < LANES; j++) store(columns + (i + j) * LANES, block[j]);
        else
            for (ptrdiff_t j = 0; j < some; j++) store(columns + (i + j) * LANES, block[j]);
#else
        store(columns + i, block[0]);
#endif
    }
}

/* Prefetches `bytes` of memory, or a row of each sequence, before they are read or written. Cache lines
   that the hardware prefetcher loads are evicted before a step ends. The kernels prefetch in portions: a
   core can wait for only about twenty cache lines at a time. */
INLINE void fetch(const void *p, ptrdiff_t bytes) {
#ifdef __GNUC__
    for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i);
    __builtin_prefetch((const char *)p + bytes - 1); /* the last line, if p is not aligned to lines */
#else
    (void)p, (void)bytes;
#endif
}

/* Rows with gaps are not prefetched: each of their entries may be on a page of its own. */
INLINE void fetch_row(const View *a, ptrdiff_t at, ptrdiff_t n) {
    if (a->data[0] == NULL || a->inner > (ptrdiff_t)sizeof(real) || a->inner < 0) return;
    for (ptrdiff_t s = 0; s < SEQUENCES; s++) fetch(a->data[s] + at, n * a->inner);
}

/* As read_row, for a row that all sequences share. */
static void read_shared_row(real *columns, const View *a, ptrdiff_t at, ptrdiff_t n) {
#ifdef SRWM_MANY
    for (ptrdiff_t i = 0; i < n; i++)
        store(columns + i * LANES, splat(read_entry(a->data[0] + at + i * a->inner, a->kind)));
#else
    read_row(columns, a, at, n);
#endif
}

/* IN: n columns -> OUT: the row `at` bytes into the view, if there is an array. */
static void write_row(const View *a, ptrdiff_t at, const real *columns, ptrdiff_t n) {
    if (a->data[0] == NULL) return;
#ifndef SRWM_MANY
    if (is_dense(a)) {
        char *row = a->data[0] + at;
        for (; n >= LANES; n -= LANES, row += VECTOR_BYTES, columns += LANES) store(row, load(columns));
        if (n > 0) store_some(row, load(columns), n);
        return;
    }
#endif
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        ptrdiff_t some = n - i < LANES ? n - i : LANES;
        vector block[VECTOR_BYTES / sizeof(real)];
        load_block(block, columns + i * STRIDE, some);
        write_block(a, at + i * a->inner, block, some);
    }
}

/* Rows: the first, and the entries from one to the next. */
typedef struct Rows Rows;
struct Rows {
    real *at;
    ptrdiff_t apart;
};

/* An array of n entries a step. Several steps are read or written together: in place, if the kernels can use
   its rows where they are, or in `room`, which has rows of vectors_for(n) vectors. `sign` is 1, or -1 for
   steps t, t - 1, ... */
typedef struct Series Series;
struct Series {
    const View *view;
    ptrdiff_t n;
    real *room;
    Rows in_place; /* its row 0; NULL if entries are converted, are not whole vectors, or have gaps */
};

static Series series_of(const View *view, ptrdiff_t n, real *room) {
    Series a = {view, n, room, {NULL, 0}};
#ifndef SRWM_MANY /* where the rows of other sequences are elsewhere */
    const ptrdiff_t size = sizeof(real);
    if (view->data[0] != NULL && is_dense(view) && n % LANES == 0 && view->outer % size == 0 &&
        (uintptr_t)view->data[0] % sizeof(real) == 0)
        a.in_place = (Rows){(real *)view->data[0], view->outer / size};
#endif
    return a;
}

/* Where steps t, t + sign, ... are read or written. */
INLINE Rows rows_of(const Series *a, ptrdiff_t t, ptrdiff_t sign) {
    if (a->in_place.at == NULL) return (Rows){a->room, vectors_for(a->n) * LANES};
    return (Rows){a->in_place.at + t * a->in_place.apart, sign * a->in_place.apart};
}

INLINE Rows read_rows(const Series *a, ptrdiff_t t, ptrdiff_t sign, int steps) {
    const Rows rows = rows_of(a, t, sign);
    if (a->in_place.at == NULL)
        for (ptrdiff_t i = 0; i < steps; i++)
            read_row(rows.at + i * rows.apart, a->view, (t + sign * i) * a->view->outer, a->n);
    return rows;
}

/* Writes what was left at rows_of(a, t, sign), if there is an array. */
INLINE void write_rows(const Series *a, ptrdiff_t t, ptrdiff_t sign, int steps) {
    const Rows rows = rows_of(a, t, sign);
    if (a->in_place.at == NULL && a->view->data[0] != NULL)
        for (ptrdiff_t i = 0; i < steps; i++)
            write_row(a->view, (t + sign * i) * a->view->outer, rows.at + i * rows.apart, a->n);
}

/* IN: n columns -> added to the row `at` bytes into a view of reals; if all sequences share it, their sum
   is. */
static void add_row(const View *a, ptrdiff_t at, const real *columns, ptrdiff_t n) {
    const int together = is_shared(a);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        ptrdiff_t some = n - i < LANES ? n - i : LANES, here = at + i * a->inner;
        vector block[VECTOR_BYTES / sizeof(real)];
        load_block(block, columns + i * STRIDE, some);
        if (together)
            UNROLL for (ptrdiff_t half = SEQUENCES / 2; half > 0; half /= 2)
                UNROLL for (ptrdiff_t s = 0; s < half; s++) block[s] += block[s + half];
        for (ptrdiff_t s = 0; s < (together ? 1 : SEQUENCES); s++) {
            char *entries = a->data[s] + here;
            if (some == LANES)
                store(entries, load(entries) + block[s]);
            else
                store_some(entries, load_some(entries, some) + block[s], some);
        }
    }
}

/* The entry of one sequence in a column. */
INLINE real *entry_of(real *columns, ptrdiff_t column, ptrdiff_t sequence) {
    return columns + column * STRIDE + sequence;
}

/* Whether step t of one sequence is padding. */
INLINE int is_padding(const View *mask, ptrdiff_t t, ptrdiff_t sequence) {
    return mask->data[0] != NULL && mask->data[sequence][t * mask->inner] == 0;
}

/* Whether one sequence, any of them, or all of them reset before step t. */
INLINE int is_reset(const View *reset, ptrdiff_t t, ptrdiff_t sequence) {
    if (reset->data[0] == NULL || reset->data[sequence][t * reset->inner] == 0) return 0;
    return reset->mask == NULL || !is_padding(reset->mask, t, sequence);
}

INLINE int any_reset(const View *reset, ptrdiff_t t) {
    for (ptrdiff_t i = 0; i < SEQUENCES; i++)
        if (is_reset(reset, t, i)) return 1;
    return 0;
}

INLINE int all_reset(const View *reset, ptrdiff_t t) {
    for (ptrdiff_t i = 0; i < SEQUENCES; i++)
        if (!is_reset(reset, t, i)) return 0;
    return 1;
}

/* out = a, `width` vectors, for the sequences that reset before step t. */
INLINE void copy_where_reset(real *out, const real *a, ptrdiff_t width, const View *reset, ptrdiff_t t) {
    for (ptrdiff_t i = 0; i < SEQUENCES; i++)
        if (is_reset(reset, t, i))
            for (ptrdiff_t j = 0; j < width * LANES / STRIDE; j++)
                *entry_of(out, j, i) = a[j * STRIDE + i];
}

#endif
