// Attention of rows of prompts, whose keys and values are in the cache (flash attention: arXiv:2307.08691).
// A workgroup has ${rows} adjacent rows and ${heads} heads that share keys and values: ${4 * tall} queries. Tiles of
// ${keys} positions, always the same ones, are gone through in order, with running maxima. A tile that a query
// does not see leaves its numbers as they are, so they depend neither on its neighbours nor on its place.
@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> step: array<u32>;
# if rope
@group(0) @binding(5) var<storage, read> angles: array<vec2<f32>>;
# endif
# include "shimmy/common/step.wgsl"
# include "shimmy/common/context.wgsl"
# set access = "read"
# for name, dims, at in [("q", head_dim, q)]
# include "shimmy/common/heads.wgsl"
# endfor
# for name, cache, chunks, wide, binding in [("k", "keys", k_chunks, 1, 1), ("v", "values", v_chunks, 1, 2)]
# include "shimmy/common/kv.wgsl"
# endfor

## An invocation has 4 queries, the components of its vectors, and every ${wide}th key and chunk of values.
# set threads = wide * tall
# set own_keys = keys // wide
# set own_chunks = (v_chunks + wide - 1) // wide
## Rows of tiles are one chunk longer than need be: neighbours read from different banks of memory.
# set tile_stride = [k_chunks, v_chunks] | max + 1
# set q_stride = k_chunks + 1
# set component = [".x", ".y", ".z", ".w"]
## Chunks of a tile of keys, and of values, that an invocation reads; a few fit into its registers.
# set k_reads = (keys * k_chunks + threads - 1) // threads
# set v_reads = (keys * v_chunks + threads - 1) // threads
# set early = [k_reads, v_reads] | max <= 8
# macro declare(name, reads)
# for i in range(reads)
        var ${name}${i} = vec4(0.0);
# endfor
# endmacro
# macro fetch(name, cache, reads, start)
# for i in range(reads)
            ${name}${i} = ${cache}_near(slot, kv_head, ${start}, li + ${i * threads}u, last);
# endfor
# endmacro
# macro place(name, reads)
# for i in range(reads)
            place_${name}(li + ${i * threads}u, ${name}${i});
# endfor
# endmacro
# macro load(name, cache, chunks)
            for (var i = li; i < ${keys * chunks}u; i += ${threads}u) {
                place_${name}(i, ${cache}_near(slot, kv_head, start, i, last));
            }
# endmacro
var<workgroup> queries: array<vec4<f32>, ${4 * tall * q_stride}>;
var<workgroup> tile: array<vec4<f32>, ${keys * tile_stride}>;
var<workgroup> weights: array<vec4<f32>, ${keys * tall}>;
var<workgroup> exchange: array<vec4<f32>, ${threads}>;
# for name, cache, chunks in [("key", "keys", k_chunks), ("value", "values", v_chunks)]

// Chunk i of the tile from position `start` on, zeros past the `last`: what lies there is nobody's yet.
fn ${cache}_near(slot: u32, kv_head: u32, start: u32, i: u32, last: u32) -> vec4<f32> {
    let at = start + i / ${chunks}u;
    if (i >= ${keys * chunks}u || at > last) { return vec4(0.0); }
    // A tile lies within a block.
    return ${cache}_part0(${cache}_load(cache_row(slot, kv_head, start) + i / ${chunks}u, i % ${chunks}u));
}

fn place_${name}(i: u32, four: vec4<f32>) {
    if (i < ${keys * chunks}u) { tile[i / ${chunks}u * ${tile_stride}u + i % ${chunks}u] = four; }
}
# endfor

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let first_row = wg.x * ${rows}u;
    let end_row = min(first_row + ${rows}u, step_rows());
    let kv_head = wg.y / ${shares}u;
    let first_head = (wg.y % ${shares}u) * ${heads}u;
    let across = li % ${wide}u;
    let down = li / ${wide}u;

    for (var i = li; i < ${4 * tall * k_chunks}u; i += ${threads}u) {
        let query = i / ${k_chunks}u;
        let c = i % ${k_chunks}u;
        let row = first_row + query / ${heads}u;
        let head = first_head + query % ${heads}u;
        var four = vec4(0.0);
        if (query < ${rows * heads}u && row < end_row && head < ${per_kv}u) {
            four = q_chunk(row, kv_head * ${per_kv}u + head, c, step_position(row));
        }
        queries[query * ${q_stride}u + c] = four;
    }

    // Of each query: its row, the positions it sees (none before its sequence's turn), largest score, sum of weights.
    var rows: vec4<u32>;
    var seen: vec4<u32>;
    var position: vec4<u32>;
# for i in range(4)
    rows${component[i]} = first_row + min((4u * down + ${i}u) / ${heads}u, ${rows}u);
    position${component[i]} = step_position(min(rows${component[i]}, end_row - 1u));
    seen${component[i]} = first_seen(position${component[i]});
# endfor
    var top = vec4(UNSEEN);
    var weight = vec4(0.0);
# for i in range(4)
# for c in range(own_chunks)
    var sum${i}_${c} = vec4(0.0);
# endfor
# endfor

    var start_row = first_row;
    while (start_row < end_row) {
        // Rows of one sequence at a time.
        let slot = step_slot(start_row);
        var stop_row = start_row + 1u;
        while (stop_row < end_row && step_slot(stop_row) == slot) { stop_row += 1u; }
        let last = step_position(stop_row - 1u);
        let turn = (rows >= vec4(start_row)) & (rows < vec4(stop_row));
        var start = first_seen(step_position(start_row)) / ${keys}u * ${keys}u;
# if early
${declare("key", k_reads)}
${declare("value", v_reads)}
${fetch("key", "keys", k_reads, "start")}
# endif
        for (; start <= last; start += ${keys}u) {
# if early
${place("key", k_reads)}
            workgroupBarrier();
            // What is needed next is on its way while this is computed.
${fetch("value", "values", v_reads, "start")}
# else
${load("key", "keys", k_chunks)}
            workgroupBarrier();
# endif

# for j in range(own_keys)
            var score${j} = vec4(0.0);
# endfor
            for (var c = 0u; c < ${k_chunks}u; c += 1u) {
# for i in range(4)
                let query${i} = queries[(4u * down + ${i}u) * ${q_stride}u + c];
# endfor
# for j in range(own_keys)
                let near${j} = tile[(across + ${j * wide}u) * ${tile_stride}u + c];
                score${j} += vec4(dot(query0, near${j}), dot(query1, near${j}), dot(query2, near${j}), dot(query3, near${j}));
# endfor
            }
            var largest = vec4(UNSEEN);
# for j in range(own_keys)
            let at${j} = vec4(start + across + ${j * wide}u);
            let visible${j} = turn & (at${j} >= seen) & (at${j} <= position);
            score${j} = select(vec4(UNSEEN), score_of(score${j}), visible${j});
            largest = max(largest, score${j});
# endfor
            exchange[li] = largest;
            workgroupBarrier();

            let before = top;
# for i in range(wide)
            top = max(top, exchange[down * ${wide}u + ${i}u]);
# endfor
            let kept = exp(before - top);
            weight *= kept;
# for j in range(own_keys)
            let weight${j} = select(vec4(0.0), exp(score${j} - top), visible${j});
            weight += weight${j};
            weights[(across + ${j * wide}u) * ${tall}u + down] = weight${j};
# endfor
# if early
${place("value", v_reads)}
            workgroupBarrier();
            let next = start + ${keys}u;
            if (next <= last) {
${fetch("key", "keys", k_reads, "next")}
            }
# else
${load("value", "values", v_chunks)}
            workgroupBarrier();
# endif
# for i in range(4)
# for c in range(own_chunks)
            sum${i}_${c} *= kept${component[i]};
# endfor
# endfor
            for (var j = 0u; j < ${keys}u; j += 1u) {
                let shares = weights[j * ${tall}u + down];
# for c in range(own_chunks)
                let four${c} = tile[j * ${tile_stride}u + min(across + ${c * wide}u, ${v_chunks - 1}u)];
# for i in range(4)
                sum${i}_${c} += shares${component[i]} * four${c};
# endfor
# endfor
            }
            workgroupBarrier();
        }
        start_row = stop_row;
    }

    exchange[li] = weight;
    workgroupBarrier();
    weight = exchange[down * ${wide}u];
# for i in range(1, wide)
    weight += exchange[down * ${wide}u + ${i}u];
# endfor
# for i in range(4)
    {
        let query = 4u * down + ${i}u;
        let head = first_head + query % ${heads}u;
        if (rows${component[i]} < end_row && head < ${per_kv}u && query < ${rows * heads}u) {
            let to = (rows${component[i]} * ${kv_heads * per_kv}u + kv_head * ${per_kv}u + head) * ${v_dim}u;
# for c in range(own_chunks)
            {
                let result = sum${i}_${c} / weight${component[i]};
                let dimension = 4u * (across + ${c * wide}u);
# for d in range(4)
                if (dimension + ${d}u < ${v_dim}u) { y[to + dimension + ${d}u] = result[${d}]; }
# endfor
            }
# endfor
        }
    }
# endfor
}
