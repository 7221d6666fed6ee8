// Files embedded in the executable by `with { type: "file" }`: the import is the path to read them from.
declare module "*.so" {
  const path: string;
  export default path;
}
declare module "*.bin" {
  const path: string;
  export default path;
}
// By `with { type: "text" }`: the file's text.
declare module "*.css" {
  const text: string;
  export default text;
}
