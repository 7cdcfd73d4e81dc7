// Rows in 8 bits, 32 neighbours at a time: x = scale * code, scale = the largest magnitude / 127. An invocation has
// 4 columns, 8 of them a block. xq: the codes of a row; xd, for each block: the bits of the scale, and the sums of the
// codes of its first and its last 16 columns, as two numbers of 16 bits.

# set quads = columns // 4
# set blocks = (columns + 31) // 32
@group(0) @binding(0) var<storage, read> x: array<f32>;
# if norm is not none
@group(0) @binding(1) var<storage, read> weight: array<f32>;
# endif
# set first = 1 if norm is none else 2
@group(0) @binding(${first}) var<storage, read_write> xq: array<u32>;
@group(0) @binding(${first + 1}) var<storage, read_write> xd: array<vec2<u32>>;
@group(0) @binding(${first + 2}) var<storage, read> step: array<u32>;

# include "shimmy/common/step.wgsl"
# include "shimmy/common/quantize.wgsl"
# if norm is not none
# import "shimmy/common/norm.wgsl" as norms
# include "shimmy/common/reduce.wgsl"
${norms.statistics(norm, columns, workgroup)}
# endif
var<workgroup> largest: array<u32, ${workgroup}>;
var<workgroup> sums: array<i32, ${workgroup}>;

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    if (at.x >= ${"step_outputs()" if late else "step_rows()"}) { return; }
    let row = ${"(step_first_output() + at.x)" if late else "at.x"}${" * %du + at.y" % parts if parts > 1};
    let source = row * ${columns}u;
# if norm is not none
    let found = statistics(source, li);
# endif
    let block = li / 8u * 8u;
    for (var start = 0u; start < ${blocks * 8}u; start += ${workgroup}u) {
        let quad = start + li;
        var v = vec4<f32>();
        if (quad < ${quads}u) {
            let i = quad * 4u;
            v = vec4<f32>(x[source + i], x[source + i + 1u], x[source + i + 2u], x[source + i + 3u]);
# if norm is not none
# if norm.centred
            v -= found.x;
# endif
            v *= found.y * vec4<f32>(weight[i], weight[i + 1u], weight[i + 2u], weight[i + 3u]);
# if norm.bias
            let j = i + ${columns}u;
            v += vec4<f32>(weight[j], weight[j + 1u], weight[j + 2u], weight[j + 3u]);
# endif
# endif
        }
        largest[li] = magnitude(v);
        workgroupBarrier();
        var most = largest[block];
# for i in range(1, 8)
        most = max(most, largest[block + ${i}u]);
# endfor
        let codes = quantized(v, most);
        sums[li] = sum_of_codes(codes);
        workgroupBarrier();
        if (quad < ${blocks * 8}u) {
            xq[row * ${blocks * 8}u + quad] = codes;
            if (li == block) {
                let first = sums[li] + sums[li + 1u] + sums[li + 2u] + sums[li + 3u];
                let last = sums[li + 4u] + sums[li + 5u] + sums[li + 6u] + sums[li + 7u];
                let both = insertBits(bitcast<u32>(first), bitcast<u32>(last), 16u, 16u);
                xd[row * ${blocks}u + quad / 8u] = vec2<u32>(bitcast<u32>(quantized_scale(most)), both);
            }
        }
    }
}
