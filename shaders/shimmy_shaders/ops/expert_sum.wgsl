// The results of a row's experts times their weights, added in order${"; the last input is added" if inputs | length > 2}.

# set used = inputs[1].width // 2
# set added = inputs | length > 2
# set first = 3 if added else 2
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> chosen: array<f32>;
# if added
@group(0) @binding(2) var<storage, read> added: array<f32>;
# endif
@group(0) @binding(${first}) var<storage, read_write> y: array<f32>;
@group(0) @binding(${first + 1}) var<storage, read> step: array<u32>;

# include "shimmy/common/row.wgsl"

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = at.x;
    if (row >= rows()) { return; }
    for (var i = at.y * ${workgroup}u + li; i < ${width}u; i += ${parts * workgroup}u) {
        var sum = 0.0;
# for k in range(used)
        sum = fma(chosen[input1(row) + ${used + k}u], x[input0(row) + ${k * width}u + i], sum);
# endfor
        y[result(row) + i] = ${"added[input2(row) + i] + sum" if added else "sum"};
    }
}
