// Each of the ${parts} parts of a row, normed${" less its mean" if attrs.norm.centred}${"; the other input is added" if inputs | length > 1}.

# set norm = attrs.norm
# set added = inputs | length > 1
# set first = 2 if added else 1
@group(0) @binding(0) var<storage, read> x: array<f32>;
# if added
@group(0) @binding(1) var<storage, read> added: array<f32>;
# endif
@group(0) @binding(${first}) var<storage, read> weight: array<f32>;
@group(0) @binding(${first + 1}) var<storage, read_write> y: array<f32>;
@group(0) @binding(${first + 2}) var<storage, read> step: array<u32>;

# import "shimmy/common/norm.wgsl" as norms
# set part = width // parts
# include "shimmy/common/row.wgsl"
# include "shimmy/common/reduce.wgsl"
${norms.statistics(norm, part, workgroup)}
@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = at.x;
    if (row >= rows()) { return; }
    let begin = at.y * ${part}u;
    let source = input0(row) + begin;
    let found = statistics(source, li);
    for (var i = li; i < ${part}u; i += ${workgroup}u) {
        let normed = ${"(x[source + i] - found.x)" if norm.centred else "x[source + i]"} * found.y * weight[i]${" + weight[%du + i]" % part if norm.bias};
        y[result(row) + begin + i] = normed${" + added[input1(row) + begin + i]" if added};
    }
}
