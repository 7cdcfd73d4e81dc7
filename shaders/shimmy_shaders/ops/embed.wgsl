// Rows of a matrix: a workgroup unpacks the weights of one token${", or of its position" if positions}.

# import layout.shader as weights
# set first = layout.parts | length
${weights.bindings(layout, "w", 0)}
# if not positions
@group(0) @binding(${first}) var<storage, read> chosen: array<i32>;
# set first = first + 1
# endif
@group(0) @binding(${first}) var<storage, read_write> y: array<f32>;
@group(0) @binding(${first + 1}) var<storage, read> step: array<u32>;

# include "shimmy/common/step.wgsl"
${weights.functions(layout, "w", columns)}
@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = at.x;
    if (row >= step_rows()) { return; }
# if positions
    var at_row = step_position(row);
# else
    var token = step_token(row);
    // No token was chosen if logits were no numbers; then any will do.
    if (token < 0) { token = max(chosen[-1 - token], 0); }
    var at_row = u32(token);
# endif
# if rows
    // Other rows are in other pieces of the matrix.
    if (at_row < ${rows.start}u || at_row >= ${rows.stop}u) { return; }
    at_row -= ${rows.start}u;
# endif
    for (var block = li; block < ${(columns + 31) // 32}u; block += ${workgroup}u) {
        var values = w_values(at_row, block);
        for (var i = 0u; i < ${"32u" if columns % 32 == 0 else "min(32u, %du - 32u * block)" % columns}; i++) {
            y[row * ${columns}u + 32u * block + i] = values[i / 4u][i % 4u];
        }
    }
}
