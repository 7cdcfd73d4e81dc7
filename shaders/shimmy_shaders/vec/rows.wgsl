// The rows of x that are multiplied: how many, where, and their columns, normed if that is wanted.
// Needs the bindings step and, if x is yet to be prepared, x and norm.

# set aligned = columns % 4 == 0
# set row_quads = (columns + 3) // 4
# include "shimmy/common/step.wgsl"

fn count() -> u32 { return ${"step_outputs()" if late else "step_rows()"}; }
# if place != "buffer"
// The row of x that is number `index` of those; the last one for numbers past the end.
fn source(index: u32) -> u32 {
    let existing = min(index, count() - 1u);
    return ${"step_output(existing)" if late else "existing"};
}

# for array, row in [("x", "row * %du + " % (row_quads if aligned else columns)), ("norm", "")]
# if array == "x" or norm is not none
// Columns 4 * quad and on${" of a row" if row}; 0 past the end.
fn quad_of_${array}(${"row: u32, " if row}quad: u32) -> vec4<f32> {
# if aligned
    if (quad >= ${row_quads}u) { return vec4<f32>(); }
    return ${array}[${row}quad];
# else
    var v = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if (4u * quad + i < ${columns}u) { v[i] = ${array}[${row}4u * quad + i]; }
    }
    return v;
# endif
}

# endif
# endfor
# if norm is none
fn prepare(first: u32, li: u32) {}
fn prepared(b: u32, row: u32, quad: u32) -> vec4<f32> { return quad_of_x(row, quad); }
# else
# include "shimmy/common/reduce.wgsl"
// Of each row: 1 / sqrt(mean(x^2) + eps).
var<workgroup> factors: array<f32, ${shape.batch}>;

fn prepare(first: u32, li: u32) {
    for (var b = 0u; b < ${shape.batch}u; b++) {
        let row = source(first + b);
        var squares = vec4<f32>();
        for (var quad = li; quad < ${row_quads}u; quad += ${workgroup}u) {
            let v = quad_of_x(row, quad);
            squares = fma(v, v, squares);
        }
        let sum = workgroup_sum((squares.x + squares.y) + (squares.z + squares.w), li);
        if (li == 0u) { factors[b] = 1.0 / sqrt(sum / ${columns}.0 + ${norm}); }
    }
    workgroupBarrier();
}
// Some columns of row b, as they are multiplied.
fn prepared(b: u32, row: u32, quad: u32) -> vec4<f32> {
    return quad_of_x(row, quad) * factors[b] * quad_of_norm(quad);
}
# endif
# endif
