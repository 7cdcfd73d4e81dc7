// No number of A x is there yet; see shimmy/common/lora_meet.wgsl.

@group(0) @binding(0) var<storage, read_write> published: array<vec4<u32>>;

@compute @workgroup_size(${workgroup})
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if (at.x < ${quads}u) { published[at.x] = vec4<u32>(); }
}
