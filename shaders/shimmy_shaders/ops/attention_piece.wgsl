// Attention of generated rows over parts of their context. A workgroup has a row, some adjacent pieces of ${piece}
// positions, and ${heads} heads that share keys and values. For each head it leaves the sum of weighted values, the
// largest score, and the sum of weights, which are exponentials of scores less the largest; or the row's result, if
// it is the row's only workgroup.
// The workgroups that have the row's own position make its key and value; others do not look for them.
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> step: array<u32>;
# if rope
@group(0) @binding(8) var<storage, read> angles: array<vec2<f32>>;
# endif
# set norm_at = 9 if rope else 8
# if norms.q is not none
@group(0) @binding(${norm_at}) var<storage, read> q_weight: array<f32>;
# endif
# if norms.k is not none
@group(0) @binding(${norm_at if norms.q is none else norm_at + 1}) var<storage, read> k_weight: array<f32>;
# endif
# include "shimmy/common/step.wgsl"
# include "shimmy/common/half.wgsl"
# include "shimmy/common/context.wgsl"
# include "shimmy/common/pieces.wgsl"
# include "shimmy/common/head_norms.wgsl"
# set access = "read_write"
# for name, dims, at in [("q", head_dim, q), ("k", head_dim, k), ("v", v_dim, v)]
# include "shimmy/common/heads.wgsl"
# endfor
# for name, cache, chunks, wide, binding in [("k", "keys", k_chunks, k_wide, 3), ("v", "values", v_chunks, 1, 4)]
# include "shimmy/common/kv.wgsl"
# endfor

## Heads are taken ${in_set} at a time, as the components of a vector.
# set part = [""] if in_set == 1 else [".x", ".y", ".z", ".w"]
## For scores, ${lanes} neighbours share a position; each has every ${lanes}th load of its key.
# set k_loads = k_chunks // k_wide
# set k_each = (k_loads + lanes - 1) // lanes
# set q_stride = k_each * lanes * k_wide
# set eighths = piece // 8
## For values, an invocation has a chunk of ${positions} positions, for one set of heads.
# set columns = sets * v_chunks
# set positions = piece // groups
# macro read_keys(start)
    {
        let key_row = near_row(slot, kv_head, ${start} + near, seen, position);
# for i in range(k_each)
# set load = "%du + lane" % (i * lanes)
        key${i} = keys_load(key_row, ${load if (i + 1) * lanes <= k_loads else "min(%s, %du)" % (load, k_loads - 1)});
# endfor
    }
# endmacro
## The positions of a group lie within a block.
# macro read_values(start)
    {
        let begin = ${start} + far;
        let value_row = near_row(slot, kv_head, begin, seen, position);
# for i in range(positions)
        value${i} = select(values_kept(), values_load(value_row + ${i}u, chunk), begin + ${i}u >= seen && begin + ${i}u < position);
# endfor
    }
# endmacro
var<workgroup> queries: array<vec4<f32>, ${heads * q_stride}>;
var<workgroup> own_key: array<vec4<f32>, ${k_chunks}>;
var<workgroup> own_value: array<vec4<f32>, ${v_chunks}>;
var<workgroup> exchange: array<${scores}, ${exchange}>;
var<workgroup> weights: array<${scores}, ${sets * piece}>;
var<workgroup> tops: array<${scores}, ${sets * eighths}>;
var<workgroup> totals: array<${scores}, ${sets * groups}>;

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = wg.z;
    let kv_head = wg.y / ${shares}u;
    let first_head = (wg.y % ${shares}u) * ${heads}u;
    let slot = step_slot(row);
    let position = step_position(row);
    let seen = first_seen(position);
    let pieces = pieces_of(position);
    let first_piece = pieces.first + wg.x * pieces.each;
    if (first_piece >= pieces.end) { return; }
    let end_piece = min(first_piece + pieces.each, pieces.end);

    // For scores, a position of the piece and some chunks of its key.
    let near = li / ${lanes}u;
    let lane = li % ${lanes}u;
# for i in range(k_each)
    var key${i}: keys_kept;
# endfor
    // For sums, a chunk of the values from position `far` on.
    let column = li % ${columns}u;
    let chunk = column % ${v_chunks}u;
    let chunk_set = column / ${v_chunks}u;
    let group = li / ${columns}u;
    let far = group * ${positions}u;
# for i in range(positions)
    var value${i}: values_kept;
# endfor
    // What takes longest is begun first, here and below.
    var start = first_piece * ${piece}u;
${read_keys("start")}

# if norms.q is not none or norms.k is not none
    norm_heads(row, kv_head, first_head, li);
# endif
    for (var i = li; i < ${heads * q_stride}u; i += ${threads}u) {
        let c = i % ${q_stride}u;
        let head = kv_head * ${per_kv}u + min(first_head + i / ${q_stride}u, ${per_kv - 1}u);
# if q_stride == k_chunks
        queries[i] = q_chunk(row, head, c, position);
# else
        queries[i] = vec4(0.0);
        if (c < ${k_chunks}u) { queries[i] = q_chunk(row, head, c, position); }
# endif
    }
    if (end_piece == pieces.end) {
        // By invocations that have no query to prepare, if there are such.
        let to = cache_row(slot, kv_head, position);
        for (var c = (li + ${threads // 2}u) % ${threads}u; c < ${k_chunks}u; c += ${threads}u) {
            own_key[c] = k_kept(row, kv_head, c, position, to, first_head == 0u);
        }
        for (var c = (li + ${threads // 4}u) % ${threads}u; c < ${v_chunks}u; c += ${threads}u) {
            own_value[c] = v_kept(row, kv_head, c, position, to, first_head == 0u);
        }
    }
    workgroupBarrier();

    // For weights, a position of the piece and a set of heads.
    let at = li % ${piece}u;
    let at_set = min(li / ${piece}u, ${sets - 1}u);
    let weighing = li < ${sets * piece}u;
    var top = ${scores}(UNSEEN);
    var sum_top = ${scores}(UNSEEN);
    var total = ${scores}(0.0);
# for h in range(in_set)
    var sum${h} = vec4(0.0);
# endfor
    for (; start < end_piece * ${piece}u; start += ${piece}u) {
# for i in range(k_each)
# for j in range(k_wide)
        var four${i}_${j} = keys_part${j}(key${i});
# endfor
# endfor
        if (start + near == position) {
# for i in range(k_each)
# for j in range(k_wide)
            four${i}_${j} = own_key[min((${i * lanes}u + lane) * ${k_wide}u + ${j}u, ${k_chunks - 1}u)];
# endfor
# endfor
        }
# for s in range(sets)
        exchange[${s * threads}u + li] = ${scores}(
# for h in range(in_set)
# for i in range(k_each)
# set outer = loop
# for j in range(k_wide)
            ${"" if outer.first and loop.first else "+ "}dot(queries[${(s * in_set + h) * q_stride + i * lanes * k_wide + j}u + lane * ${k_wide}u], four${i}_${j})
# endfor
# endfor
            ${"," if not loop.last}
# endfor
        );
# endfor
        workgroupBarrier();
        let next = start + ${piece}u;
        let goes_on = next < end_piece * ${piece}u;
        if (goes_on) {
${read_keys("next")}
        }
# if early
${read_values("start")}
# endif

        let visible = start + at >= seen && start + at <= position;
        var score = ${scores}(UNSEEN);
        if (visible) {
            let first = at_set * ${threads}u + at * ${lanes}u;
            score = exchange[first];
# for i in range(1, lanes)
            score += exchange[first + ${i}u];
# endfor
            score = score_of(score);
        }
        // The largest of every 8 positions, then of all.
# if subgroup >= 8
        var largest = score;
# for distance in [1, 2, 4]
        largest = max(largest, subgroupShuffleXor(largest, ${distance}u));
# endfor
        if (weighing && li % 8u == 0u) { tops[li / 8u] = largest; }
# else
        if (weighing) { weights[li] = score; }
        workgroupBarrier();
        if (li < ${sets * eighths}u) {
            var largest = weights[li * 8u];
# for i in range(1, 8)
            largest = max(largest, weights[li * 8u + ${i}u]);
# endfor
            tops[li] = largest;
        }
# endif
        workgroupBarrier();
        let before = sum_top;
# for i in range(eighths)
        top = max(top, tops[at_set * ${eighths}u + ${i}u]);
        sum_top = max(sum_top, tops[chunk_set * ${eighths}u + ${i}u]);
# endfor
        if (weighing) { weights[li] = select(${scores}(0.0), exp(score - top), visible); }
        workgroupBarrier();

        let kept = exp(before - sum_top);
        total *= kept;
# for h in range(in_set)
        sum${h} *= kept${part[h]};
# endfor
# if not early
${read_values("start")}
# endif
# for i in range(positions)
        {
            let weight = weights[chunk_set * ${piece}u + min(far + ${i}u, ${piece - 1}u)];
            let four = values_part0(value${i});
            total += weight;
# for h in range(in_set)
            sum${h} += weight${part[h]} * four;
# endfor
        }
# endfor
    }
    if (group == 0u && end_piece == pieces.end) {
        let weight = weights[chunk_set * ${piece}u + position % ${piece}u];
# for h in range(in_set)
        sum${h} += weight${part[h]} * own_value[chunk];
# endfor
    }

    if (group < ${groups}u) {
# for d in range(4)
        exchange[${d * columns}u + group * ${4 * columns}u + column] = ${scores}(
# for h in range(in_set)
            sum${h}[${d}],
# endfor
        );
# endfor
        if (chunk == 0u) {
            totals[chunk_set * ${groups}u + group] = total;
            if (group == 0u) { tops[chunk_set * ${eighths}u] = sum_top; }
        }
    }
    workgroupBarrier();

    // The groups' sums: an invocation has one number of a chunk.
    for (var i = li; i < ${4 * columns}u; i += ${threads}u) {
        let c = i % ${v_chunks}u;
        let d = i / ${columns}u;
        let sum_set = i % ${columns}u / ${v_chunks}u;
        var sum = exchange[i];
        var all = totals[sum_set * ${groups}u];
# for g in range(1, groups)
        sum += exchange[${g * 4 * columns}u + i];
        all += totals[sum_set * ${groups}u + ${g}u];
# endfor
        let largest = tops[sum_set * ${eighths}u];
# for h in range(in_set)
        {
            let head = first_head + sum_set * ${in_set}u + ${h}u;
            let place = (row * ${kv_heads}u + kv_head) * ${per_kv}u + head;
            let dimension = 4u * c + d;
            if (head < ${per_kv}u) {
                if (pieces.workgroups == 1u) {
                    if (dimension < ${v_dim}u) { y[place * ${v_dim}u + dimension] = sum${part[h]} / all${part[h]}; }
                } else {
                    // The first number of each chunk, then the second.
                    let to = (place * ${splits}u + wg.x) * ${4 * (v_chunks + 1)}u;
                    partials[to + d * ${v_chunks}u + c] = sum${part[h]};
                    if (dimension == 0u) {
                        partials[to + ${4 * v_chunks}u] = largest${part[h]};
                        partials[to + ${4 * v_chunks + 1}u] = all${part[h]};
                    }
                }
            }
        }
# endfor
    }
}
