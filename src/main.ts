#!/usr/bin/env bun
import { readConfig } from "./config";
import { serve } from "./cli/serve";
await serve(readConfig(process.env, "argo"));
