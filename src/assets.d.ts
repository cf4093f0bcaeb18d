declare module "*.sql" {
  const text: string;
  export default text;
}
declare module "*.script.js" {
  const text: string;
  export default text;
}
declare module "*/start.css" {
  const text: string;
  export default text;
}
/** Imported as files: the path of the asset, inside a compiled binary too. */
declare module "swagger-ui-dist/*" {
  const path: string;
  export default path;
}
declare module "*.gz" {
  const path: string;
  export default path;
}
declare module "*.zst" {
  const path: string;
  export default path;
}
declare module "*/dist/pglite.data" {
  const path: string;
  export default path;
}
declare module "*/dist/pglite.wasm" {
  const path: string;
  export default path;
}
