// What row ops share (plugins/shimmy_plugins/backends/wgpu/ops/row.py); needs a binding `step: array<u32>`.

# include "shimmy/common/step.wgsl"

// The number of rows.
fn rows() -> u32 { return ${"step_outputs()" if late else "step_rows()"}; }
# set place = "(step_first_output() + row)" if late else "row"
# for input in inputs
// Where input ${loop.index0} has a row.
fn input${loop.index0}(row: u32) -> u32 { return ${place} * ${input.stride}u + ${input.offset}u; }
# endfor
// Where y has a row.
fn result(row: u32) -> u32 { return ${place} * ${width}u; }
