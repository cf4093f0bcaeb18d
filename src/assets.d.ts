declare module "*.sql" {
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
