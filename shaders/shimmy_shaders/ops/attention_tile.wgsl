// Attention of rows of prompts, whose keys and values are in the cache (flash attention: arXiv:2307.08691).
// A workgroup has ${rows} adjacent rows and ${heads} heads that share keys and values: ${4 * quads * tall} queries. Tiles of
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

## An invocation has ${quads} times 4 queries, the components of its vectors, and every ${wide}th key and chunk of values.
# set own_queries = 4 * quads
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
# macro fetch(name, cache, reads, block, start)
# for i in range(reads)
            ${name}${i} = ${cache}_near(tile_row(${block}, kv_head, ${start}), ${start}, li + ${i * threads}u, last);
# endfor
# endmacro
# macro place(name, reads)
# for i in range(reads)
            place_${name}(li + ${i * threads}u, ${name}${i});
# endfor
# endmacro
# macro load(name, cache, chunks)
            for (var i = li; i < ${keys * chunks}u; i += ${threads}u) {
                place_${name}(i, ${cache}_near(tile_row(block, kv_head, start), start, i, last));
            }
# endmacro
var<workgroup> queries: array<vec4<f32>, ${own_queries * tall * q_stride}>;
var<workgroup> tile: array<vec4<f32>, ${keys * tile_stride}>;
var<workgroup> weights: array<vec4<f32>, ${keys * tall * quads}>;
var<workgroup> exchange: array<vec4<f32>, ${threads * quads}>;

// Where a block has the keys, and values, of a tile, which lies within it.
fn tile_row(block: u32, kv_head: u32, start: u32) -> u32 {
    return (block * ${kv_heads}u + kv_head) * ${block_tokens}u + start % ${block_tokens}u;
}
# for name, cache, chunks in [("key", "keys", k_chunks), ("value", "values", v_chunks)]

// Chunk i of the tile at `row`, from position `start` on, zeros past the `last`: what lies there is nobody's yet.
fn ${cache}_near(row: u32, start: u32, i: u32, last: u32) -> vec4<f32> {
    let at = start + i / ${chunks}u;
    if (i >= ${keys * chunks}u || at > last) { return vec4(0.0); }
    return ${cache}_part0(${cache}_load(row + i / ${chunks}u, i % ${chunks}u));
}

fn place_${name}(i: u32, four: vec4<f32>) {
    if (i < ${keys * chunks}u) { tile[i / ${chunks}u * ${tile_stride}u + i % ${chunks}u] = four; }
}
# endfor

@compute @workgroup_size(${threads})
fn main(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) all: vec3<u32>,
    @builtin(local_invocation_index) li: u32,
) {
    // Late rows see most. The first heads begin with them, the others end with them: who has much, then has little.
    let first_row = select(all.x - 1u - wg.x, wg.x, 2u * wg.y >= all.y) * ${rows}u;
    let end_row = min(first_row + ${rows}u, step_rows());
    let kv_head = wg.y / ${shares}u;
    let first_head = (wg.y % ${shares}u) * ${heads}u;
    let across = li % ${wide}u;
    let down = li / ${wide}u;

    for (var i = li; i < ${own_queries * tall * k_chunks}u; i += ${threads}u) {
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
# for b in range(quads)
    var rows${b}: vec4<u32>;
    var seen${b}: vec4<u32>;
    var position${b}: vec4<u32>;
# for i in range(4)
    rows${b}${component[i]} = first_row + min((${own_queries}u * down + ${4 * b + i}u) / ${heads}u, ${rows}u);
    position${b}${component[i]} = step_position(min(rows${b}${component[i]}, end_row - 1u));
    seen${b}${component[i]} = first_seen(position${b}${component[i]});
# endfor
    var top${b} = vec4(UNSEEN);
    var weight${b} = vec4(0.0);
# for i in range(4)
# for c in range(own_chunks)
    var sum${4 * b + i}_${c} = vec4(0.0);
# endfor
# endfor
# endfor

    var start_row = first_row;
    while (start_row < end_row) {
        // Rows of one sequence at a time.
        let slot = step_slot(start_row);
        var stop_row = start_row + 1u;
        while (stop_row < end_row && step_slot(stop_row) == slot) { stop_row += 1u; }
        let last = step_position(stop_row - 1u);
# for b in range(quads)
        let turn${b} = (rows${b} >= vec4(start_row)) & (rows${b} < vec4(stop_row));
# endfor
        var start = first_seen(step_position(start_row)) / ${keys}u * ${keys}u;
        var block = step_block(slot, start / ${block_tokens}u);
# if early
${declare("key", k_reads)}
${declare("value", v_reads)}
${fetch("key", "keys", k_reads, "block", "start")}
# endif
        for (; start <= last; start += ${keys}u) {
            let next = start + ${keys}u;
            let next_block = step_block(slot, min(next, last) / ${block_tokens}u);
# if early
${place("key", k_reads)}
            workgroupBarrier();
            // What is needed next is on its way while this is computed.
${fetch("value", "values", v_reads, "block", "start")}
# else
${load("key", "keys", k_chunks)}
            workgroupBarrier();
# endif

# for q in range(own_queries)
# for j in range(own_keys)
            var product${q}_${j} = 0.0;
# endfor
# endfor
            for (var c = 0u; c < ${k_chunks}u; c += 1u) {
# for q in range(own_queries)
                let query${q} = queries[(${own_queries}u * down + ${q}u) * ${q_stride}u + c];
# endfor
# for j in range(own_keys)
                let near${j} = tile[(across + ${j * wide}u) * ${tile_stride}u + c];
# for d in component
# for q in range(own_queries)
                product${q}_${j} = fma(query${q}${d}, near${j}${d}, product${q}_${j});
# endfor
# endfor
# endfor
            }
# for b in range(quads)
            var largest${b} = vec4(UNSEEN);
# for j in range(own_keys)
            let at${b}_${j} = vec4(start + across + ${j * wide}u);
            let visible${b}_${j} = turn${b} & (at${b}_${j} >= seen${b}) & (at${b}_${j} <= position${b});
            let score${b}_${j} = select(vec4(UNSEEN), score_of(vec4(
# for i in range(4)
                product${4 * b + i}_${j},
# endfor
            )), visible${b}_${j});
            largest${b} = max(largest${b}, score${b}_${j});
# endfor
            exchange[${b * threads}u + li] = largest${b};
# endfor
            workgroupBarrier();

# for b in range(quads)
            let before${b} = top${b};
# for i in range(wide)
            top${b} = max(top${b}, exchange[${b * threads + i}u + down * ${wide}u]);
# endfor
            let kept${b} = exp(before${b} - top${b});
            weight${b} *= kept${b};
# for j in range(own_keys)
            let weight${b}_${j} = select(vec4(0.0), exp(score${b}_${j} - top${b}), visible${b}_${j});
            weight${b} += weight${b}_${j};
            weights[(across + ${j * wide}u) * ${tall * quads}u + down * ${quads}u + ${b}u] = weight${b}_${j};
# endfor
# endfor
# if early
${place("value", v_reads)}
            workgroupBarrier();
            if (next <= last) {
${fetch("key", "keys", k_reads, "next_block", "next")}
            }
# else
${load("value", "values", v_chunks)}
            workgroupBarrier();
# endif
# for b in range(quads)
# for i in range(4)
# for c in range(own_chunks)
            sum${4 * b + i}_${c} *= kept${b}${component[i]};
# endfor
# endfor
# endfor
            for (var j = 0u; j < ${keys}u; j += 1u) {
# for b in range(quads)
                let shares${b} = weights[j * ${tall * quads}u + down * ${quads}u + ${b}u];
# endfor
# for c in range(own_chunks)
                let four${c} = tile[j * ${tile_stride}u + min(across + ${c * wide}u, ${v_chunks - 1}u)];
# for b in range(quads)
# for i in range(4)
                sum${4 * b + i}_${c} += shares${b}${component[i]} * four${c};
# endfor
# endfor
# endfor
            }
            block = next_block;
            workgroupBarrier();
        }
        start_row = stop_row;
    }

# for b in range(quads)
    exchange[${b * threads}u + li] = weight${b};
# endfor
    workgroupBarrier();
# for b in range(quads)
    weight${b} = exchange[${b * threads}u + down * ${wide}u];
# for i in range(1, wide)
    weight${b} += exchange[${b * threads + i}u + down * ${wide}u];
# endfor
# for i in range(4)
    {
        let query = ${own_queries}u * down + ${4 * b + i}u;
        let head = first_head + query % ${heads}u;
        let row = rows${b}${component[i]};
        if (row < end_row && head < ${per_kv}u && query < ${rows * heads}u) {
            let to = (row * ${kv_heads * per_kv}u + kv_head * ${per_kv}u + head) * ${v_dim}u;
# for c in range(own_chunks)
            {
                let result = sum${4 * b + i}_${c} / weight${b}${component[i]};
                let dimension = 4u * (across + ${c * wide}u);
# for d in range(4)
                if (dimension + ${d}u < ${v_dim}u) { y[to + dimension + ${d}u] = result[${d}]; }
# endfor
            }
# endfor
        }
    }
# endfor
# endfor
}
