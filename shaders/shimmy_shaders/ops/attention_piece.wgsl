// Attention of generated rows over parts of their context. A workgroup has a row, some adjacent pieces of ${piece}
// positions, and ${heads} heads that share keys and values. For each head it leaves the sum of weighted values, the
// largest score, and the sum of weights, which are exponentials of scores less the largest.
// The workgroups that have the row's own position make its key and value; others do not look for them.
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> step: array<u32>;
# if rope
@group(0) @binding(7) var<storage, read> angles: array<vec2<f32>>;
# endif
# include "shimmy/common/step.wgsl"
# include "shimmy/common/half.wgsl"
# include "shimmy/common/context.wgsl"
# include "shimmy/common/pieces.wgsl"
# set access = "read_write"
# for name, dims, at in [("q", head_dim, q), ("k", head_dim, k), ("v", v_dim, v)]
# include "shimmy/common/heads.wgsl"
# endfor
# for name, cache, chunks, binding in [("k", "keys", k_chunks, 3), ("v", "values", v_chunks, 4)]
# include "shimmy/common/kv.wgsl"
# endfor

## Heads are taken ${in_set} at a time, as the components of a vector.
# set part = [""] if in_set == 1 else [".x", ".y", ".z", ".w"]
## For scores, ${lanes} neighbours share a position; each has every ${lanes}th chunk.
# set k_each = (k_chunks + lanes - 1) // lanes
# set q_stride = k_each * lanes
## For values, an invocation has a chunk of ${positions} positions, for one set of heads.
# set columns = sets * v_chunks
# set positions = piece // groups
# macro read_keys(start)
    {
        let at = ${start} + near;
        let cached = at >= seen && at < position;
        let key_row = cache_row(slot, kv_head, min(at, position));
# for i in range(k_each)
        key${i} = vec4(0.0);
        if (cached && ${i * lanes}u + lane < ${k_chunks}u) { key${i} = keys_chunk(key_row, ${i * lanes}u + lane); }
# endfor
    }
# endmacro
## The positions of a group lie within a block.
# macro read_values(start)
    {
        let at = ${start} + far;
        let value_row = cache_row(slot, kv_head, min(at, position));
# for i in range(positions)
        value${i} = vec4(0.0);
        if (group < ${groups}u && at + ${i}u >= seen && at + ${i}u < position) {
            value${i} = values_chunk(value_row + ${i}u, chunk);
        }
# endfor
    }
# endmacro
var<workgroup> queries: array<vec4<f32>, ${heads * q_stride}>;
var<workgroup> own_key: array<vec4<f32>, ${k_chunks}>;
var<workgroup> own_value: array<vec4<f32>, ${v_chunks}>;
var<workgroup> exchange: array<f32, ${exchange}>;
var<workgroup> weights: array<${scores}, ${sets * piece}>;
var<workgroup> tops: array<${scores}, ${sets * 8}>;
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
    var key${i}: vec4<f32>;
# endfor
    // For sums, a chunk of the values from position `far` on.
    let column = li % ${columns}u;
    let chunk = column % ${v_chunks}u;
    let chunk_set = column / ${v_chunks}u;
    let group = li / ${columns}u;
    let far = group * ${positions}u;
# for i in range(positions)
    var value${i}: vec4<f32>;
# endfor
    // What takes longest is begun first, here and below.
    var start = first_piece * ${piece}u;
${read_keys("start")}
# if early
${read_values("start")}
# endif

    for (var i = li; i < ${heads * q_stride}u; i += ${threads}u) {
        let c = i % ${q_stride}u;
        let head = kv_head * ${per_kv}u + min(first_head + i / ${q_stride}u, ${per_kv - 1}u);
        queries[i] = vec4(0.0);
        if (c < ${k_chunks}u) { queries[i] = q_chunk(row, head, c, position); }
    }
    if (end_piece == pieces.end) {
        let to = cache_row(slot, kv_head, position);
        for (var c = li; c < ${k_chunks}u; c += ${threads}u) {
            own_key[c] = k_kept(row, kv_head, c, position, to, first_head == 0u);
        }
        for (var c = li; c < ${v_chunks}u; c += ${threads}u) {
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
        if (start + near == position) {
# for i in range(k_each)
            if (${i * lanes}u + lane < ${k_chunks}u) { key${i} = own_key[${i * lanes}u + lane]; }
# endfor
        }
# for h in range(heads)
        exchange[${h * threads}u + li] =
# for i in range(k_each)
            ${"" if loop.first else "+ "}dot(queries[${h * q_stride + i * lanes}u + lane], key${i})${";" if loop.last}
# endfor
# endfor
        workgroupBarrier();
        let next = start + ${piece}u;
        let goes_on = next < end_piece * ${piece}u;
        if (goes_on) {
${read_keys("next")}
        }

        let visible = start + at >= seen && start + at <= position;
        var score = ${scores}(UNSEEN);
        if (visible) {
            let first = at_set * ${in_set * threads}u + at * ${lanes}u;
            score = score_of(${scores}(
# for h in range(in_set)
# for i in range(lanes)
                ${"" if loop.first else "+ "}exchange[first + ${h * threads + i}u]${"," if loop.last}
# endfor
# endfor
            ));
        }
        if (weighing) { weights[li] = score; }
        workgroupBarrier();
        // The largest of an eighth of the positions, then of all.
        if (li < ${sets * 8}u) {
            var largest = weights[li * ${piece // 8}u];
# for i in range(1, piece // 8)
            largest = max(largest, weights[li * ${piece // 8}u + ${i}u]);
# endfor
            tops[li] = largest;
        }
        workgroupBarrier();
        let before = sum_top;
# for i in range(8)
        top = max(top, tops[at_set * 8u + ${i}u]);
        sum_top = max(sum_top, tops[chunk_set * 8u + ${i}u]);
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
        if (start + far + ${i}u == position) { value${i} = own_value[chunk]; }
        let weight${i} = weights[chunk_set * ${piece}u + min(far + ${i}u, ${piece - 1}u)];
        total += weight${i};
# for h in range(in_set)
        sum${h} += weight${i}${part[h]} * value${i};
# endfor
# endfor
# if early
        if (goes_on) {
${read_values("next")}
        }
# endif
    }

    // The groups' sums are added in pairs.
    if (chunk == 0u && group < ${groups}u) { totals[chunk_set * ${groups}u + group] = total; }
    for (var half = ${groups // 2}u; half > 0u; half /= 2u) {
        let stride = half * ${columns}u;
        if (group >= half && group < 2u * half) {
# for h in range(in_set)
# for i in range(4)
            exchange[${4 * h + i}u * stride + li - stride] = sum${h}[${i}];
# endfor
# endfor
        }
        workgroupBarrier();
        if (group < half) {
# for h in range(in_set)
            sum${h} += vec4(
# for i in range(4)
                exchange[${4 * h + i}u * stride + li],
# endfor
            );
# endfor
        }
        workgroupBarrier();
    }

    if (group == 0u) {
        total = totals[chunk_set * ${groups}u];
        for (var i = 1u; i < ${groups}u; i += 1u) { total += totals[chunk_set * ${groups}u + i]; }
# for h in range(in_set)
        let head${h} = first_head + chunk_set * ${in_set}u + ${h}u;
        if (head${h} < ${per_kv}u) {
            let to = ((row * ${kv_heads}u + kv_head) * ${per_kv}u + head${h}) * ${splits * (v_chunks + 1)}u + wg.x * ${v_chunks + 1}u;
            partials[to + chunk] = sum${h};
            if (chunk == 0u) { partials[to + ${v_chunks}u] = vec4(sum_top${part[h]}, total${part[h]}, 0.0, 0.0); }
        }
# endfor
    }
}
